//! The networks and their weights, through the public interface.

mod passes;
mod torchvision;
mod weights;
