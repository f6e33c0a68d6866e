//! The networks and their weights, through the public interface.

mod common;
mod passes;
mod pretrained;
mod torchvision;
