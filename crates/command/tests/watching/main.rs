//! Runs the program against local servers.

mod bench;
mod browser;
mod deploy_files;
mod describe;
mod doctor;
mod http;
mod page;
mod policies;
mod public_reports;
mod reading;
mod serve;
