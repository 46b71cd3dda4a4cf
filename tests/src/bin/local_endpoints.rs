//! Local Kinesis and DynamoDB endpoints for a developer's machine: `cargo xtask local`.

use std::process::ExitCode;

use end_to_end_tests::local_servers::{ACCESS_KEY_ID, InProcessServers, REGION, SECRET_ACCESS_KEY};

/// The default addresses.
const DEFAULT_ADDRESSES: [&str; 2] = ["127.0.0.1:4567", "127.0.0.1:8000"];

#[tokio::main]
async fn main() -> ExitCode {
    let mut addresses = std::env::args().skip(1);
    let kinesis = addresses.next().unwrap_or_else(|| DEFAULT_ADDRESSES[0].to_owned());
    if kinesis.starts_with('-') {
        println!("usage: cargo xtask local [KINESIS_ADDRESS [DYNAMODB_ADDRESS]]");
        println!("default addresses: {}", DEFAULT_ADDRESSES.join(" "));
        return ExitCode::SUCCESS;
    }
    let dynamodb = addresses.next().unwrap_or_else(|| DEFAULT_ADDRESSES[1].to_owned());
    let servers = match InProcessServers::start_at(&kinesis, &dynamodb).await {
        Ok(servers) => servers,
        Err(error) => {
            eprintln!("local_endpoints: {kinesis} or {dynamodb} cannot be used: {error}");
            return ExitCode::FAILURE;
        }
    };
    let endpoints = servers.endpoints();
    println!("{endpoints}; nothing is kept when they end. In another terminal:\n");
    println!(
        "export AWS_ACCESS_KEY_ID={ACCESS_KEY_ID} AWS_SECRET_ACCESS_KEY={SECRET_ACCESS_KEY} AWS_REGION={REGION}"
    );
    let programs = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.display().to_string()));
    let programs = programs.unwrap_or_else(|| "target/debug".to_owned());
    println!(
        "{programs}/word_producer --stream words --create-with-shards 4 --endpoint-url {}",
        endpoints.kinesis
    );
    println!(
        "{programs}/kinesis_word_count --stream words --application word-count --endpoint-url {} \
         --dynamodb-endpoint-url {}\n",
        endpoints.kinesis, endpoints.dynamodb
    );
    println!("Ctrl-C ends them.");
    match tokio::signal::ctrl_c().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("local_endpoints: {error}");
            ExitCode::FAILURE
        }
    }
}
