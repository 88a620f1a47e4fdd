//! The whole public interface over TCP, with real guests in this process.

mod errors;
mod exec;
mod files;
mod posted;
mod sprites;
mod world;
