//! Object metadata: reading it, and the rules that every object's metadata keeps.

pub mod names;
