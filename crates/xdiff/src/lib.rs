//! xdiff
