//! xdiff-metrics
