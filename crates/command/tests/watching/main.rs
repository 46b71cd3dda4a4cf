//! Runs the program against local servers.

mod bench;
mod deploy_files;
mod describe;
mod http;
mod serve;
