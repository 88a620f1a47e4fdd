//! Filesystem bodies (contract, http-api 10).
