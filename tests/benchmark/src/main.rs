//! Measures the cost of consuming a stream against other consumers: `cargo xtask bench`.

mod certificate;
mod contender;
mod driver;
mod http;
mod measure;
mod server;
mod shape;

use std::process::ExitCode;

use kinesis_streaming::prelude::BoxError;

use crate::contender::{Contender, Job};
use crate::driver::Options;
use crate::server::Plan;
use crate::shape::Shape;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1).peekable();
    let part = match arguments.peek().map(String::as_str) {
        Some("serve" | "contend") => arguments.next().unwrap_or_default(),
        _ => String::new(),
    };
    if part.is_empty() {
        return driver::run(&options(arguments)?);
    }
    let settings = Settings(arguments.collect());
    let shape = Shape::of(settings.text("shape")?).ok_or("unknown shape")?;
    let (shards, answers) = (settings.number("shards")?, settings.number("answers")?);
    if part == "serve" {
        let plan = Plan { shape, shards, answers, is_closed: settings.number("closed")? > 0 };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        return runtime.block_on(server::serve(plan));
    }
    let job = Job {
        url: settings.text("url")?.to_owned(),
        endpoint: settings.text("endpoint")?.to_owned(),
        shape,
        shards,
        answers,
        seconds: settings.number("seconds")?,
        counts: settings.number("counts")? > 0,
    };
    let contender = Contender::of(settings.text("who")?).ok_or("unknown contender")?;
    println!("{}", contender::run(contender, &job)?);
    Ok(())
}

/// Arguments of the form `name=value`, with which the driver starts its processes.
struct Settings(Vec<String>);

impl Settings {
    fn text(&self, name: &str) -> Result<&str, BoxError> {
        let found = self.0.iter().find_map(|setting| setting.strip_prefix(name)?.strip_prefix('='));
        found.ok_or_else(|| format!("argument {name}= is missing").into())
    }

    fn number(&self, name: &str) -> Result<u64, BoxError> {
        Ok(self.text(name)?.parse()?)
    }
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options, BoxError> {
    let mut options = Options::default();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--short" => options.is_short = true,
            "--json" => options.json = Some(value()?.into()),
            "--shapes" => options.shapes = value()?.split(',').map(str::to_owned).collect(),
            "--parts" => options.parts = value()?.split(',').map(str::to_owned).collect(),
            "--python" => options.python = Some(Ok(value()?.into())),
            "--without-python" => options.python = Some(Err(value()?)),
            "--local-endpoints" => options.local_endpoints = Some(value()?.into()),
            _ => {
                return Err(format!(
                    "unknown argument {argument}; use --short, --json FILE, --shapes a,b,c,d,e,paced, \
                     --parts time,tls,fan-out,count,latency,python,instructions, --python FILE, \
                     --without-python REASON and --local-endpoints FILE"
                )
                .into());
            }
        }
    }
    Ok(options)
}
