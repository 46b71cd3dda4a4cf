//! The metrics that the properties file asks for.

use kinesis_streaming::kinesis_asl::MetricSample;
use multilang::properties::DaemonSettings;

/// Which metrics are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MetricsChoice {
    /// Those of each shard too, and not only those of the worker.
    is_detailed: bool,
    has_shard: bool,
    has_worker: bool,
}

impl MetricsChoice {
    /// The choice of the settings. `None`: no metrics.
    pub(super) fn of(settings: &DaemonSettings) -> Option<Self> {
        let has = |name: &str| {
            let dimensions = &settings.metrics_dimensions;
            dimensions.iter().any(|dimension| {
                dimension.eq_ignore_ascii_case("ALL") || dimension.eq_ignore_ascii_case(name)
            })
        };
        let choice = |is_detailed| Self {
            is_detailed,
            has_shard: has("ShardId"),
            has_worker: has("WorkerIdentifier"),
        };
        match settings.metrics_level.as_str() {
            "NONE" => None,
            "SUMMARY" => Some(choice(false)),
            _ => Some(choice(true)),
        }
    }

    /// The samples to publish, with the dimensions that are enabled.
    pub(super) fn apply(self, samples: Vec<MetricSample>) -> Vec<MetricSample> {
        let is_wanted = |sample: &MetricSample| self.is_detailed || sample.shard_id.is_none();
        let with_dimensions = |mut sample: MetricSample| {
            sample.shard_id = sample.shard_id.filter(|_| self.has_shard);
            sample.worker = sample.worker.filter(|_| self.has_worker);
            sample
        };
        samples.into_iter().filter(is_wanted).map(with_dimensions).collect()
    }
}

#[cfg(test)]
mod tests {
    use kinesis_streaming::prelude::{ShardId, WorkerId};
    use multilang::properties::{Strictness, interpret, parse_properties};

    use super::*;

    fn published(lines: &str) -> Option<Vec<(bool, bool)>> {
        let text = format!(
            "executableName = a.py\napplicationName = app\nstreamName = words\n\
             AwsCredentialsProvider = DefaultCredentialsProvider\n{lines}"
        );
        let file = parse_properties(text.as_bytes()).unwrap();
        let settings = DaemonSettings::new(&interpret(&file, Strictness::Compatible)).unwrap();
        let samples = vec![
            MetricSample::records_processed(ShardId::numbered(1), 7),
            MetricSample::current_leases(WorkerId::new("w").unwrap(), 2),
        ];
        let dimensions = |sample: &MetricSample| (sample.shard_id.is_some(), sample.worker.is_some());
        Some(MetricsChoice::of(&settings)?.apply(samples).iter().map(dimensions).collect())
    }

    #[test]
    fn level_and_dimensions_choose_the_metrics() {
        assert_eq!(published(""), Some(vec![(true, false), (false, true)]));
        assert_eq!(published("metricsLevel = summary"), Some(vec![(false, true)]));
        assert_eq!(published("metricsLevel = NONE"), None);
        let without_worker = published("metricsEnabledDimensions = Operation,ShardId");
        assert_eq!(without_worker, Some(vec![(true, false), (false, false)]));
    }
}
