//! xdiff-data
