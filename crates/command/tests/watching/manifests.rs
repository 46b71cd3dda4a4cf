//! The manifests for Kubernetes, KEDA and ECS: they fit their schemas, and agree with each other and with the program.

use std::collections::BTreeMap;

use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::bench::{APPLICATION, STREAM, TestBed, lease};
use crate::schema::Schema;

const CONSUMER: &str = include_str!("../../../../deploy/kubernetes/consumer.yaml");
const VIEW: &str = include_str!("../../../../deploy/kubernetes/fleet-view.yaml");
const SCALED_OBJECT: &str = include_str!("../../../../deploy/kubernetes/scaled-object.yaml");
const TASK: &str = include_str!("../../../../deploy/ecs/task-definition.json");
const SERVICE: &str = include_str!("../../../../deploy/ecs/service.json");

const KUBERNETES_SCHEMA: &str = include_str!("schemas/kubernetes.json");
const KEDA_SCHEMA: &str = include_str!("schemas/keda.json");
const ECS_SCHEMA: &str = include_str!("schemas/ecs.json");

/// What a stop takes beyond the drain time, in seconds (`docs/deployment.md`).
const STOP_SECONDS: u64 = 8;

fn documents(text: &str) -> Vec<Value> {
    serde_norway::Deserializer::from_str(text).map(|each| Value::deserialize(each).unwrap()).collect()
}

fn kind(document: &Value) -> String {
    format!("{} {}", document["apiVersion"].as_str().unwrap(), document["kind"].as_str().unwrap())
}

/// The document of a kind in a file.
fn one(text: &str, kind: &str) -> Value {
    documents(text).into_iter().find(|document| document["kind"] == kind).unwrap()
}

fn environment(container: &Value, list: &str) -> BTreeMap<String, Value> {
    let each = container[list].as_array().unwrap().iter();
    each.map(|entry| (entry["name"].as_str().unwrap().to_owned(), entry.clone())).collect()
}

fn drain_seconds(variables: &BTreeMap<String, Value>) -> u64 {
    let text = variables["SERVICE__CONSUMER__DRAIN_TIME"]["value"].as_str().unwrap();
    text.strip_suffix('s').unwrap().parse().unwrap()
}

#[test]
fn manifests_of_kubernetes_fit_their_schema() {
    let (kubernetes, keda) = (Schema::new(KUBERNETES_SCHEMA), Schema::new(KEDA_SCHEMA));
    let mut names = Vec::new();
    for document in [CONSUMER, VIEW, SCALED_OBJECT].into_iter().flat_map(documents) {
        let kind = kind(&document);
        let faults = kubernetes.faults(&kind, &document).or_else(|| keda.faults(&kind, &document));
        assert_eq!(faults, Some(Vec::new()), "{kind}");
        names.push(format!("{kind} {}", document["metadata"]["name"].as_str().unwrap()));
    }
    assert_eq!(names.len(), 9, "{names:?}");
}

#[test]
fn files_of_ecs_fit_their_schema() {
    let schema = Schema::new(ECS_SCHEMA);
    for (kind, text) in [("task-definition", TASK), ("service", SERVICE)] {
        let document = serde_json::from_str(text).unwrap();
        assert_eq!(schema.faults(kind, &document), Some(Vec::new()), "{kind}");
    }
}

/// kedacore/keda #3669: the type of the metric in the metadata of the trigger has no effect, and the scaler fails.
#[test]
fn schemas_find_faults() {
    let (kubernetes, keda) = (Schema::new(KUBERNETES_SCHEMA), Schema::new(KEDA_SCHEMA));
    let faults = |schema: &Schema, document: &Value| schema.faults(&kind(document), document).unwrap();
    let mut set = one(CONSUMER, "StatefulSet");
    set["spec"]["template"]["spec"]["terminationGracePeriod"] = json!(45);
    set["spec"]["replicas"] = json!("3");
    set["spec"].as_object_mut().unwrap().remove("selector");
    let found = faults(&kubernetes, &set);
    assert_eq!(found.len(), 3, "{found:?}");
    let mut scaled = one(SCALED_OBJECT, "ScaledObject");
    scaled["spec"]["triggers"][0]["metadata"]["metricType"] = json!("Value");
    scaled["spec"]["triggers"][0]["metadata"]["targetValue"] = json!(1);
    let found = faults(&keda, &scaled);
    assert_eq!(found.len(), 2, "{found:?}");
    let mut task: Value = serde_json::from_str(TASK).unwrap();
    task["containerDefinitions"][0]["stopTimeout"] = json!("45s");
    task["networkMode"] = json!("bridged");
    let found = Schema::new(ECS_SCHEMA).faults("task-definition", &task).unwrap();
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn grace_periods_fit_the_drain_time() {
    let set = one(CONSUMER, "StatefulSet");
    let pod = &set["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let variables = environment(container, "env");
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(grace >= drain_seconds(&variables) + STOP_SECONDS, "{grace} s");
    let id = &variables["SERVICE__CONSUMER__WORKER_ID"]["valueFrom"]["fieldRef"]["fieldPath"];
    assert_eq!(id, "metadata.name", "stable over a restart, and unique");

    let task: Value = serde_json::from_str(TASK).unwrap();
    let container = &task["containerDefinitions"][0];
    let timeout = container["stopTimeout"].as_u64().unwrap();
    let least = drain_seconds(&environment(container, "environment")) + STOP_SECONDS;
    assert!((least..=120).contains(&timeout), "{timeout} s; Fargate allows 120");
    assert_eq!(container["linuxParameters"]["initProcessEnabled"], true, "SIGTERM reaches the program");
}

/// smallrye/smallrye-reactive-messaging #866: a liveness probe that fails for what a restart does not cure kills the pod.
#[test]
fn probes_and_services_name_what_exists() {
    for (text, workload) in [(CONSUMER, "StatefulSet"), (VIEW, "Deployment")] {
        let (workload, service) = (one(text, workload), one(text, "Service"));
        let pod = &workload["spec"]["template"];
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/healthz");
        assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/readyz");
        assert_eq!(container["livenessProbe"]["httpGet"]["port"], container["ports"][0]["name"]);
        assert_eq!(service["spec"]["selector"], pod["metadata"]["labels"]);
        assert_eq!(workload["spec"]["selector"]["matchLabels"], pod["metadata"]["labels"]);
        assert_eq!(service["spec"]["ports"][0]["port"], container["ports"][0]["containerPort"]);
        let scraped = &pod["metadata"]["annotations"]["prometheus.io/port"];
        assert_eq!(*scraped, container["ports"][0]["containerPort"].to_string());
        assert_eq!(pod["spec"]["serviceAccountName"], one(text, "ServiceAccount")["metadata"]["name"]);
    }
    assert_eq!(
        one(CONSUMER, "StatefulSet")["spec"]["serviceName"],
        one(CONSUMER, "Service")["metadata"]["name"]
    );
}

/// kedacore/keda #1850, #2244: KEDA scales to 0 when the source of its number does not answer. #7411: there is no fallback from 0.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scaled_object_reads_a_number_that_the_program_answers() {
    let scaled = one(SCALED_OBJECT, "ScaledObject")["spec"].clone();
    let set = one(CONSUMER, "StatefulSet");
    assert_eq!(scaled["scaleTargetRef"]["name"], set["metadata"]["name"]);
    assert_eq!(scaled["scaleTargetRef"]["kind"], set["kind"]);
    let (least, most) =
        (scaled["minReplicaCount"].as_u64().unwrap(), scaled["maxReplicaCount"].as_u64().unwrap());
    assert!(least >= 1 && scaled["fallback"]["replicas"].as_u64().unwrap() >= least);

    let trigger = &scaled["triggers"][0];
    assert_eq!(trigger["metricType"], "AverageValue", "a fallback needs it");
    assert_eq!(trigger["metadata"]["targetValue"], "1", "the answer is a number of workers");
    let service = one(VIEW, "Service");
    let (name, port) = (service["metadata"]["name"].as_str().unwrap(), &service["spec"]["ports"][0]["port"]);
    assert_eq!(trigger["metadata"]["url"], format!("http://{name}:{port}/lag"));
    let view = one(VIEW, "Deployment");
    let arguments = view["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap().clone();
    let at = arguments.iter().position(|argument| argument == "--max-workers").unwrap();
    assert_eq!(arguments[at + 1], most.to_string());

    // The program takes the options, and answers the field that the scaler reads.
    let bed = TestBed::start(1).await;
    bed.put_lease(lease(0, Some("worker-1"))).await;
    let options = ["lag", APPLICATION, "--stream", STREAM, "--json", "--max-workers", "12"];
    let load = bed.json(&options).await;
    let field = trigger["metadata"]["valueLocation"].as_str().unwrap();
    assert!(load[field].is_u64(), "{field} of {load}");
}
