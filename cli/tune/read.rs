//! Objects and series to look at: of a server, or straight out of the data directory, where nothing is
//! started for it.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, header};
use kube::Client;
use mizzen_apiserver::{ApiServer, ApiServerOptions, Extension};
use mizzen_controllers::{MetricSink as _, StoreSink};
use mizzen_store::Store;
use mizzen_types::ErrorCode;
use serde_json::{Value, json};

use crate::{
    connect::{self, Target},
    failure::{Failure, Result},
    global::Global,
    stack::{self, Lock},
};

/// Where series of trials lie beside the API: `GET <prefix><uid of the trial>`, with [`NEWEST`] after it
/// only the last value of each metric.
const PREFIX: &str = "/tuning/v1/series/";
const NEWEST: &str = "/newest";

/// Metrics of a trial by name, each with its values in order.
type Metrics = BTreeMap<String, Vec<String>>;

/// Objects and series, to look at.
pub(super) struct Reader {
    pub(super) client: Client,
    _lock: Option<Lock>,
}

impl Reader {
    /// What this client sees.
    pub(super) fn of(client: Client) -> Self {
        Self { client, _lock: None }
    }

    /// The server or cluster named, else the one that runs in the data directory, else the directory.
    pub(super) async fn open(global: &Global, target: &Target) -> Result<Self> {
        if target.is_named() {
            return Ok(Self::of(target.client().await?));
        }
        let dir = global.data_dir()?;
        if let Some(url) = stack::running(&dir) {
            return Ok(Self::of(connect::server(&url)?));
        }
        let database = dir.join("mizzen.db");
        if !database.exists() {
            let message = format!(
                "nothing has run in the data directory `{}` yet; name another with --data-dir, or a server with --server",
                dir.display()
            );
            return Err(Failure::new(ErrorCode::NotFound, message));
        }
        Self::of_directory(&dir, &database).await
    }

    async fn of_directory(dir: &Path, database: &Path) -> Result<Self> {
        let lock = Lock::take(dir)?;
        let store = Store::open(database)?;
        let extensions: Vec<Arc<dyn Extension>> = vec![Arc::new(SeriesApi::open(&store)?)];
        let options = ApiServerOptions { extensions, ..ApiServerOptions::default() };
        let api = ApiServer::open(store, options).await?;
        Ok(Self { client: api.client(), _lock: Some(lock) })
    }

    /// The metrics of a trial by its uid; nothing if this server gives none out.
    pub(super) async fn series(&self, uid: &str) -> Result<Option<Metrics>> {
        self.get(format!("{PREFIX}{uid}")).await
    }

    /// The same with the last value of each metric alone.
    pub(super) async fn newest(&self, uid: &str) -> Result<Option<Metrics>> {
        self.get(format!("{PREFIX}{uid}{NEWEST}")).await
    }

    async fn get(&self, path: String) -> Result<Option<Metrics>> {
        let request = Request::get(path)
            .body(Vec::new())
            .map_err(|e| Failure::new(ErrorCode::Internal, e.to_string()))?;
        match self.client.request::<Value>(request).await {
            Ok(answer) => {
                let metrics = serde_json::from_value(answer["metrics"].clone());
                metrics.map(Some).map_err(|e| {
                    Failure::new(
                        ErrorCode::Internal,
                        format!("the server's series cannot be read: {e}"),
                    )
                })
            }
            // A cluster's API server has no such path, or does not let everybody have it.
            Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403 | 404) => Ok(None),
            Err(error) => Err(Failure::kube("cannot get the series of a trial", error)),
        }
    }
}

/// Metric series of trials over HTTP.
pub(crate) struct SeriesApi(StoreSink);

impl SeriesApi {
    /// Over the store where the controllers keep them.
    pub(crate) fn open(store: &Store) -> Result<Self> {
        Ok(Self(StoreSink::open(store.clone())?))
    }

    fn answer(&self, request: &Request<Bytes>) -> (StatusCode, Value) {
        let path = request.uri().path().strip_prefix(PREFIX).unwrap_or_default();
        let (uid, newest) = path.strip_suffix(NEWEST).map_or((path, false), |uid| (uid, true));
        if request.method() != Method::GET {
            let words = format!("series are read with GET, not {}", request.method());
            return (StatusCode::METHOD_NOT_ALLOWED, json!({ "message": words }));
        }
        let found = if newest { self.0.newest(uid) } else { self.0.whole(uid) };
        match found {
            Ok(points) => {
                let mut metrics = Metrics::new();
                for point in points {
                    metrics.entry(point.metric).or_default().push(point.value);
                }
                (StatusCode::OK, json!({ "trial": uid, "metrics": metrics }))
            }
            Err(error) => {
                (StatusCode::INTERNAL_SERVER_ERROR, json!({ "message": error.to_string() }))
            }
        }
    }
}

impl Extension for SeriesApi {
    fn prefix(&self) -> &str {
        PREFIX
    }

    fn call(&self, request: Request<Bytes>) -> BoxFuture<'static, Response<Bytes>> {
        let (status, body) = self.answer(&request);
        let mut response = Response::new(Bytes::from(body.to_string()));
        *response.status_mut() = status;
        let json = header::HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        Box::pin(std::future::ready(response))
    }
}
