//! Handlers, one module per group of paths.

pub(crate) mod files;
pub(crate) mod machine;
pub(crate) mod sessions;
