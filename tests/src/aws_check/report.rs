//! The report as Markdown. Pure.

use std::fmt;

use super::assumption::{ASSUMPTIONS, Findings, Verdict};

/// A report. It names the stream without its account.
#[derive(Debug)]
pub struct Report<'a> {
    /// The stream as it was given: its name or its ARN.
    pub stream: &'a str,
    /// The region of the calls.
    pub region: &'a str,
    /// What was seen.
    pub findings: &'a Findings,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stream, region, findings } = self;
        let name = stream.rsplit('/').next().unwrap_or_default();
        let count = |verdict| findings.count(verdict);
        writeln!(formatter, "# Assumptions about the service, stream {name} in {region}\n")?;
        writeln!(
            formatter,
            "{} held, {} broken, {} not tried; kinesis-asl with aws-sdk-kinesis {}\n",
            count(Verdict::Held),
            count(Verdict::Broken),
            count(Verdict::NotTried),
            aws_sdk_kinesis::meta::PKG_VERSION,
        )?;
        writeln!(formatter, "| id | assumed | seen | verdict |\n| --- | --- | --- | --- |")?;
        for assumption in ASSUMPTIONS {
            let (verdict, seen) = findings.of(assumption.id);
            writeln!(formatter, "| {} | {} | {seen} | {verdict} |", assumption.id, assumption.assumed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_the_stream_without_its_account() {
        let mut findings = Findings::default();
        findings.check("cbor.map", false, "a map of stated length");
        let stream = "arn:aws:kinesis:eu-west-1:111122223333:stream/words";
        let report = Report { stream, region: "eu-west-1", findings: &findings }.to_string();
        assert!(
            report.starts_with("# Assumptions about the service, stream words in eu-west-1\n"),
            "{report}"
        );
        assert!(!report.contains("111122223333"), "{report}");
        assert!(report.contains("0 held, 1 broken, 33 not tried"), "{report}");
        let rows = report.lines().filter(|line| line.starts_with("| ")).count();
        assert_eq!(rows, 2 + ASSUMPTIONS.len());
        assert!(report.contains("| a map of stated length | BROKEN |"), "{report}");
    }
}
