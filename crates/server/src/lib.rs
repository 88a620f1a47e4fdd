//! The public HTTP interface: translates requests into calls and answers back; decides nothing.

mod answer;
mod connection;
mod exec;
