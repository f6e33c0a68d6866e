//! Layers with right gradients.
