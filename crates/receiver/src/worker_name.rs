//! The name of a worker that has none in its settings: where it runs, and a number.

use fastrand::Rng;

/// The variable by which ECS tells a container where its metadata is. The last part of the URL names the container.
const ECS_METADATA: &str = "ECS_CONTAINER_METADATA_URI_V4";

/// The longest place in a name, in bytes; the number follows it.
const MAX_PLACE_BYTES: usize = 200;

/// A new worker name, like those in the KCL's examples: the place and a unique number. The place is the container of ECS, or
/// else the host, which Kubernetes names after the pod.
pub(crate) fn new_worker_id(rng: &mut Rng, host_name: Option<String>) -> String {
    let place = place(|variable| std::env::var(variable).ok(), host_name);
    format!("{place}:{:016x}", rng.u64(..))
}

fn place(variable: impl Fn(&str) -> Option<String>, host_name: Option<String>) -> String {
    let of_ecs = || {
        let url = variable(ECS_METADATA)?;
        let container = url.trim_end_matches('/').rsplit('/').next()?;
        (url.contains("://") && !container.is_empty()).then(|| format!("ecs-{container}"))
    };
    let of_host = || variable("HOSTNAME").filter(|host| !host.trim().is_empty()).or(host_name);
    let place = of_ecs().or_else(of_host).unwrap_or_else(|| "worker".to_owned());
    let end = (0..=MAX_PLACE_BYTES.min(place.len())).rev().find(|end| place.is_char_boundary(*end));
    place[..end.unwrap_or(0)].trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place_in(variables: &[(&str, &str)], host_name: Option<&str>) -> String {
        let find = |name: &str| {
            variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned())
        };
        place(find, host_name.map(str::to_owned))
    }

    #[test]
    fn place_is_container_then_pod_then_host() {
        let ecs = (ECS_METADATA, "http://169.254.170.2/v4/5fb03fcb5bcb4c4d-1234567890");
        let pod = ("HOSTNAME", "orders-6d4cf56db6-x2x8k");
        assert_eq!(place_in(&[ecs, pod], Some("ip-10-0-0-1")), "ecs-5fb03fcb5bcb4c4d-1234567890");
        assert_eq!(place_in(&[pod], Some("ip-10-0-0-1")), "orders-6d4cf56db6-x2x8k");
        assert_eq!(place_in(&[("HOSTNAME", "")], Some("ip-10-0-0-1")), "ip-10-0-0-1");
        assert_eq!(place_in(&[(ECS_METADATA, "")], None), "worker");
    }

    #[test]
    fn name_of_any_host_is_a_valid_worker_id() {
        let host = "ü".repeat(MAX_PLACE_BYTES);
        let id = new_worker_id(&mut Rng::with_seed(1), Some(host.clone()));
        assert!(lease_store::WorkerId::new(id).is_ok());
        assert_eq!(place_in(&[], Some(&host)).len(), MAX_PLACE_BYTES);
        let other = new_worker_id(&mut Rng::with_seed(2), Some(host.clone()));
        assert_ne!(new_worker_id(&mut Rng::with_seed(1), Some(host)), other);
    }
}
