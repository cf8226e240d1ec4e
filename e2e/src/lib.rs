//! End-to-end tests against real systems
