"""Reference outputs for the conformance cases, one module for a family of ops."""
