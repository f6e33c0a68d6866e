//! The networks and their weights, through the public interface.

mod passes;
mod pretrained;
mod torchvision;
