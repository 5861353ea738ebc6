//! Events for `kubectl describe`. Best effort: they wait for nothing and nothing waits for them.

use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time},
    jiff::Timestamp,
};
use kube::{Api, Client, Resource, api::PostParams};
use tokio::sync::mpsc;

/// Hands events to the task that writes them.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    queue: mpsc::Sender<Event>,
    node: String,
}

/// Events that may wait. More are dropped: by then the API server is slow or gone, and events are
/// the least of it.
const QUEUE_MAX: usize = 1024;

impl Recorder {
    pub(crate) fn new(node: &str) -> (Self, mpsc::Receiver<Event>) {
        let (queue, events) = mpsc::channel(QUEUE_MAX);
        (Self { queue, node: node.to_owned() }, events)
    }

    pub(crate) fn normal<K: Resource<DynamicType = ()>>(
        &self,
        on: &K,
        reason: &str,
        message: &str,
    ) {
        self.record(on, "Normal", reason, message);
    }

    pub(crate) fn warning<K: Resource<DynamicType = ()>>(
        &self,
        on: &K,
        reason: &str,
        message: &str,
    ) {
        self.record(on, "Warning", reason, message);
    }

    fn record<K: Resource<DynamicType = ()>>(
        &self,
        on: &K,
        kind: &str,
        reason: &str,
        message: &str,
    ) {
        let _ = self.queue.try_send(event(on, kind, reason, message, &self.node, Timestamp::now()));
    }
}

fn event<K: Resource<DynamicType = ()>>(
    on: &K,
    kind: &str,
    reason: &str,
    message: &str,
    node: &str,
    now: Timestamp,
) -> Event {
    let object: ObjectReference = on.object_ref(&());
    let name = object.name.clone().unwrap_or_default();
    // Removed along with what it is about; Kubernetes keeps events for an hour instead.
    let owner = OwnerReference {
        api_version: object.api_version.clone().unwrap_or_default(),
        kind: object.kind.clone().unwrap_or_default(),
        name: name.clone(),
        uid: object.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    };
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:x}", now.as_nanosecond())),
            namespace: object.namespace.clone(),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        involved_object: object,
        type_: Some(kind.into()),
        reason: Some(reason.into()),
        message: Some(message.into()),
        count: Some(1),
        event_time: Some(MicroTime(now)),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource { component: Some("mizzen".into()), host: Some(node.into()) }),
        reporting_component: Some("mizzen".into()),
        reporting_instance: Some(node.into()),
        ..Event::default()
    }
}

/// How long an event waits for others. Those written together are one transaction, and what they
/// tell of need not share the processor with the telling.
const GATHER: Duration = Duration::from_millis(20);

/// Events written at once.
const BATCH: usize = 64;

/// Writes events until every [`Recorder`] is gone.
pub(crate) async fn run(client: Client, mut events: mpsc::Receiver<Event>) {
    let mut batch = Vec::new();
    while let Some(first) = events.recv().await {
        batch.push(first);
        tokio::time::sleep(GATHER).await;
        while batch.len() < BATCH
            && let Ok(event) = events.try_recv()
        {
            batch.push(event);
        }
        join_all(batch.drain(..).map(|event| write(&client, event))).await;
    }
}

async fn write(client: &Client, event: Event) {
    let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    if let Err(error) = api.create(&PostParams::default(), &event).await {
        tracing::debug!(%error, "event not written");
    }
}
