//! xdiff-viz
