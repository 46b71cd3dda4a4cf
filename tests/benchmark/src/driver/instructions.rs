//! Instructions per record by `valgrind`: the difference between a longer and a shorter run. Most virtual machines
//! have no hardware counters.

use std::process::Command;

use kinesis_streaming::prelude::BoxError;
use serde_json::{Value, json};

use super::comparisons::{Comparison, Kind};
use super::processes::{Server, arguments};
use super::progress::Progress;
use super::report::{Report, as_f64};
use crate::contender::Contender;
use crate::shape::Shape;
use kinesis_streaming::kinesis_asl::GetRecordsFormat;

/// Number of answers of the shorter and the longer run.
const ANSWERS: [u64; 2] = [2, 6];

const CONTENDERS: [Contender; 3] =
    [Contender::SdkLoop, Contender::Pipeline(GetRecordsFormat::Cbor), Contender::Limit { is_cbor: true }];

pub(super) fn run(report: &mut Report, progress: &Progress) -> Result<(), BoxError> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("\nLEFT OUT: instructions: valgrind is not installed");
        return Ok(());
    }
    for shape in [Shape::A, Shape::B] {
        println!("\n1 shard, {shape} (instructions)");
        let mut rows = Vec::new();
        for contender in CONTENDERS {
            progress.note(&format!("counting the instructions of {}, {shape}", contender.name()));
            let mut counts = [0; 2];
            for (answers, count) in ANSWERS.into_iter().zip(&mut counts) {
                *count = instructions(contender, shape, answers)?;
            }
            let answers = as_f64(ANSWERS[1] - ANSWERS[0]);
            let more = as_f64(counts[1].saturating_sub(counts[0])) / answers;
            let figures = json!({
                "instructions_per_record": more / as_f64(shape.user_records()),
                "instructions_per_payload_byte": more / as_f64(shape.user_bytes()),
            });
            rows.push(report.add(Kind::Count, shape, 1, contender.name(), figures));
        }
        Report::print(&rows);
    }
    Ok(())
}

fn instructions(contender: Contender, shape: Shape, answers: u64) -> Result<u64, BoxError> {
    let server = Server::start(shape, 1, answers, false)?;
    let comparison = Comparison {
        kind: Kind::Time,
        shape,
        shards: 1,
        answers,
        seconds: 0,
        rounds: 1,
        contenders: Vec::new(),
    };
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        // Otherwise each byte of a long copy counts as an instruction.
        .env("GLIBC_TUNABLES", "glibc.cpu.x86_rep_movsb_threshold=1000000000")
        .arg(std::env::current_exe()?)
        .args(arguments(contender, &comparison, &server))
        .output()?;
    let output_text = String::from_utf8_lossy(&output.stderr);
    let count = output_text.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    let figures: Value = serde_json::from_slice(&output.stdout)?;
    if figures["records"].as_u64() != Some(shape.records() * answers) {
        return Err(format!("{} read {} records under valgrind", contender.name(), figures["records"]).into());
    }
    count.ok_or_else(|| format!("valgrind reported no count: {output_text}").into())
}
