//! What the integration tests of the workspace share; the tests are in the files beside this one.

pub mod small;
