//! Everything of one machine put together: the store, the API server, the node, the controllers and, where
//! asked for, the model server. `mizzen up` runs it for good; `tune` and `run` for as long as they run.

use std::{
    fs::File,
    io::Read as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use futures::future::BoxFuture;
use kube::{Client, Resource, core::NamespaceResourceScope};
use mizzen_apiserver::{ApiServer, ApiServerOptions, Extension};
use mizzen_controllers::{
    Admission, AgentLaunch, Controllers, ControllersOptions, LocalDeployer, Services,
};
use mizzen_model_registry::{Registry, rest};
use mizzen_node::{Node, NodeDefaults, NodeLogs, NodeOptions, OnShutdown, TrainingAdmission};
use mizzen_serving_host::ModelHost;
use mizzen_serving_server::{OutletOptions, Server};
use mizzen_store::Store;
use mizzen_studies::Studies;
use mizzen_types::ErrorCode;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinHandle,
};

use crate::{
    connect::{self, Target},
    failure::{Failure, Result},
    global::Global,
    katib, serve,
    tune::SeriesApi,
};

/// Which parts a command needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parts {
    /// All but the model server.
    Tuning,
    /// All.
    All,
}

/// How to put it together.
pub(crate) struct StackOptions {
    pub(crate) data_dir: PathBuf,
    pub(crate) api: SocketAddr,
    pub(crate) serving: Option<serve::ServeSettings>,
    /// Where trials report metrics.
    pub(crate) katib: OutletOptions,
    /// Algorithms that are services of the user's own.
    pub(crate) services: Services,
    /// Early stopping that is a service of the user's own.
    pub(crate) stoppers: Services,
    /// Off, this is a small cluster for an operator elsewhere.
    pub(crate) controllers: bool,
    pub(crate) node: NodeFlags,
}

/// Flags of commands that run trials, jobs and steps on this machine.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct NodeFlags {
    /// Bytes that the log of each trial, job or step may have; what it prints beyond them is dropped from the
    /// middle [default: 134217728]
    #[arg(long, value_name = "BYTES", env = "MIZZEN_MAX_LOG_SIZE", value_parser = log_size())]
    pub(crate) max_log_size: Option<u64>,
}

/// The least is what makes room for whole lines at both ends.
pub(crate) fn log_size() -> clap::builder::RangedU64ValueParser<u64> {
    clap::value_parser!(u64).range(1 << 20..)
}

/// The running whole.
pub(crate) struct Stack {
    pub(crate) client: Client,
    pub(crate) api: SocketAddr,
    pub(crate) serving: Option<String>,
    /// Of Katib's DBManager; none without controllers.
    pub(crate) katib: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    controllers: Option<Controllers>,
    node: Node,
    tasks: Vec<JoinHandle<Result<()>>>,
    _lock: Lock,
}

/// How long processes get between SIGTERM and SIGKILL when the stack stops.
const GRACE: Duration = Duration::from_secs(5);

impl Stack {
    /// Starts everything; returns once everything answers.
    pub(crate) async fn start(options: StackOptions) -> Result<Self> {
        let dir = options.data_dir;
        let lock = Lock::take(&dir)?;
        let store = Store::open(&dir.join("mizzen.db"))?;
        let (stop, stopped) = watch::channel(false);
        let mut tasks = Vec::new();

        let pods = dir.join("pods");
        let api = ApiServer::open(
            store.clone(),
            ApiServerOptions {
                logs: Some(Arc::new(NodeLogs::new(pods.clone()))),
                admission: admission(options.controllers, &options.services, &options.stoppers),
                extensions: vec![
                    Arc::new(RegistryApi(Registry::open(store.clone())?)),
                    Arc::new(StudiesApi(Studies::open(store.clone())?)),
                    Arc::new(SeriesApi::open(&store)?),
                ],
                ..ApiServerOptions::default()
            },
        )
        .await?;
        let listener = TcpListener::bind(options.api).await.map_err(|e| {
            let message = format!(
                "cannot listen on {} for the API: {e}; choose another port with --api-port",
                options.api
            );
            Failure::new(ErrorCode::FailedPrecondition, message)
        })?;
        let address = listener.local_addr()?;
        let server = api.clone();
        let until = flag(stopped.clone());
        tasks.push(tokio::spawn(async move {
            server.serve(listener, until).await.map_err(Failure::from)
        }));

        let client = api.client();
        let mut serving = None;
        let mut deployer = None;
        if let Some(settings) = options.serving {
            let traces = settings.tracing()?;
            let scheme = if settings.tls()?.http.is_some() { "https" } else { "http" };
            let options = settings.server()?;
            let host = settings.host()?;
            let server = Server::bind(options, host.clone()).await;
            if server.is_err() {
                host.loaded().await; // an engine's library cannot be taken down under a load
            }
            let server = server?;
            serving = Some(server.addresses().to_string());
            deployer = Some(local_deployer(&dir, &host, &server, scheme));
            let until = flag(stopped.clone());
            tasks.push(tokio::spawn(async move {
                let drained = server.run(until).await;
                if let Some(traces) = traces {
                    traces.stop().await;
                }
                tracing::info!(cut_off = drained.left, "model server stopped");
                Ok(())
            }));
        }

        let mut controlling = ControllersOptions::new(store, &dir);
        controlling.deployer = deployer;
        controlling.services = options.services;
        controlling.stoppers = options.stoppers;
        let program = std::env::current_exe()?;
        // Where this file says, as the port may be another one after a restart.
        let report_to = format!("@{}", lock.path.display());
        controlling.agent = Some(AgentLaunch { program, report_to, image: None });
        let mut node = node_options(pods, &dir, address)?;
        node.log_bytes_max = options.node.max_log_size.unwrap_or(node.log_bytes_max);
        let (mut controllers, mut reports) = (None, None);
        if options.controllers {
            let outlet = katib::bind(options.katib).await?;
            reports = Some(outlet.address());
            controlling.db_manager = Some(katib::reached(outlet.address()).to_string());
            node.env.extend(katib::environment(outlet.address(), &katib::write_shim(&dir)?));
            let started = Controllers::start(client.clone(), controlling).await?;
            let serving = katib::serve(outlet, started.db_manager(), flag(stopped));
            tasks.push(tokio::spawn(async move {
                serving.await;
                Ok(())
            }));
            controllers = Some(started);
        }
        let node = Node::start(client.clone(), node).await?;
        let (api, pid) = (address.to_string(), std::process::id());
        lock.publish(&json!({ "api": api, "katib": reports, "pid": pid }))?;
        let (api, katib) = (address, reports);
        Ok(Self { client, api, serving, katib, stop, controllers, node, tasks, _lock: lock })
    }

    /// Stops everything, the processes of pods included: what was running is marked as disrupted and carries
    /// on with the next start.
    pub(crate) async fn stop(self) -> Result<()> {
        if let Some(controllers) = self.controllers {
            controllers.shutdown().await;
        }
        self.node.shutdown(GRACE).await;
        let _ = self.stop.send(true);
        for task in self.tasks {
            task.await.map_err(|e| Failure::new(ErrorCode::Internal, e.to_string()))??;
        }
        Ok(())
    }
}

/// Checks and defaults of objects as they are stored. A cluster does not know our kinds, so one that an
/// operator elsewhere works on does not either.
fn admission(
    ours: bool,
    services: &Services,
    stoppers: &Services,
) -> Vec<Arc<dyn mizzen_apiserver::Admission>> {
    let mut chain: Vec<Arc<dyn mizzen_apiserver::Admission>> =
        vec![Arc::new(NodeDefaults::default()), Arc::new(TrainingAdmission)];
    if ours {
        chain.insert(0, Arc::new(Admission::new().services(services.clone(), stoppers.clone())));
    }
    chain
}

/// The model registry, at the API server's address.
struct RegistryApi(Registry);

impl Extension for RegistryApi {
    fn prefix(&self) -> &str {
        rest::PREFIX
    }

    fn call(&self, request: http::Request<Bytes>) -> BoxFuture<'static, http::Response<Bytes>> {
        let registry = self.0.clone();
        let now = jiff::Timestamp::now().as_millisecond();
        Box::pin(async move { rest::answer(&registry, request, now).await })
    }
}

/// Ask and tell, at the API server's address.
struct StudiesApi(Studies);

impl Extension for StudiesApi {
    fn prefix(&self) -> &str {
        mizzen_studies::rest::PREFIX
    }

    fn call(&self, request: http::Request<Bytes>) -> BoxFuture<'static, http::Response<Bytes>> {
        let studies = self.0.clone();
        Box::pin(async move { mizzen_studies::rest::answer(&studies, request).await })
    }
}

fn local_deployer(
    dir: &Path,
    host: &ModelHost,
    server: &Server,
    scheme: &str,
) -> Arc<dyn mizzen_controllers::Deployer> {
    let address = server.addresses().http.map(|a| a.to_string()).unwrap_or_default();
    let url = format!("{scheme}://{address}");
    Arc::new(LocalDeployer::new(host.clone(), dir.join("models"), url))
}

/// What steps and trials find in their environment: this binary, and a kubeconfig of this API server.
fn node_options(pods: PathBuf, dir: &Path, api: SocketAddr) -> Result<NodeOptions> {
    let kubeconfig = dir.join("kubeconfig");
    let url = format!("http://{api}");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "mizzen",
        "clusters": [{ "name": "mizzen", "cluster": { "server": url } }],
        "users": [{ "name": "mizzen", "user": {} }],
        "contexts": [{ "name": "mizzen", "context": { "cluster": "mizzen", "user": "mizzen", "namespace": "default" } }],
    });
    std::fs::write(&kubeconfig, config.to_string())?;
    let mut options = NodeOptions::new(pods);
    options.on_shutdown = OnShutdown::Stop;
    options.env = vec![
        ("KUBECONFIG".into(), kubeconfig.display().to_string()),
        ("MIZZEN_SERVER".into(), url.clone()),
        ("MODEL_REGISTRY_URL".into(), url),
    ];
    let exe = std::env::current_exe()?;
    options.path_prefix = exe.parent().map(|dir| vec![dir.to_owned()]).unwrap_or_default();
    Ok(options)
}

/// The data directory's lock: one `mizzen` at a time keeps its state there.
pub(crate) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    pub(crate) fn take(dir: &Path) -> Result<Self> {
        let unusable = |e: std::io::Error| {
            let failure = Failure::from(e);
            failure.context(format!(
                "cannot use the data directory `{}`; choose another with --data-dir",
                dir.display()
            ))
        };
        std::fs::create_dir_all(dir).map_err(unusable)?;
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(dir.join("lock"))
            .map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path: dir.join("server.json"), _file: file }),
            Err(_) => Err(Failure::new(
                ErrorCode::FailedPrecondition,
                format!(
                    "the data directory `{}` is used by another mizzen{}; talk to it with --server, or choose another with --data-dir",
                    dir.display(),
                    running(dir).map(|url| format!(" at {url}")).unwrap_or_default(),
                ),
            )),
        }
    }

    /// Says where this server listens, for commands that find the directory taken.
    fn publish(&self, address: &Value) -> Result<()> {
        std::fs::write(&self.path, address.to_string()).map_err(Failure::from)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The server that keeps its state in this directory, if one is running.
pub(crate) fn running(dir: &Path) -> Option<String> {
    let file = File::options().write(true).open(dir.join("lock")).ok()?;
    if file.try_lock().is_ok() {
        return None; // a file left by a server that was killed
    }
    let text = std::fs::read_to_string(dir.join("server.json")).ok()?;
    let address = serde_json::from_str::<Value>(&text).ok()?["api"].as_str()?.to_owned();
    Some(format!("http://{address}"))
}

/// What a command works against: a server that was named or is running here, or a stack of its own.
pub(crate) struct Session {
    pub(crate) client: Client,
    stack: Option<Stack>,
}

impl Session {
    /// The server or cluster named, else the one running in the data directory, else a stack of its own.
    pub(crate) async fn open(
        global: &Global,
        target: &Target,
        parts: Parts,
        node: NodeFlags,
    ) -> Result<Self> {
        if target.is_named() {
            return Ok(Self { client: target.client().await?, stack: None });
        }
        let data_dir = global.data_dir()?;
        if let Some(url) = running(&data_dir) {
            tracing::info!(url, "using the server that runs in this data directory");
            return Ok(Self { client: connect::server(&url)?, stack: None });
        }
        let serving = (parts == Parts::All).then(serve::ServeSettings::on_any_port);
        let api = SocketAddr::from(([127, 0, 0, 1], 0));
        let katib = OutletOptions::local("katib", 0);
        let (services, stoppers) = (Services::default(), Services::default());
        let controllers = true;
        let options =
            StackOptions { data_dir, api, serving, katib, services, stoppers, controllers, node };
        let stack = Stack::start(options).await?;
        Ok(Self { client: stack.client.clone(), stack: Some(stack) })
    }

    /// What Ctrl-C means here.
    pub(crate) fn interrupted_message(&self, what: &str) -> Failure {
        let words = match self.stack {
            Some(_) => format!("interrupted; the same command carries the {what} on"),
            None => format!(
                "interrupted; the {what} goes on at the server, the same command follows it again"
            ),
        };
        Failure::new(ErrorCode::Cancelled, words)
    }

    pub(crate) async fn close(self) {
        if let Some(stack) = self.stack
            && let Err(failure) = stack.stop().await
        {
            tracing::warn!(?failure, "stopping was not clean");
        }
    }
}

/// Creates an object, or finds it there from before, if that one asks for the same. Returns its name.
///
/// The object goes as it was written, so that the server sees, and refuses, a field it does not know.
pub(crate) async fn create_or_carry_on<K>(
    client: &Client,
    namespace: &str,
    object: &Value,
) -> Result<String>
where
    K: Resource<Scope = NamespaceResourceScope>,
    K::DynamicType: Default,
{
    let kind = K::kind(&K::DynamicType::default()).into_owned();
    let url = K::url_path(&K::DynamicType::default(), Some(namespace));
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let request = |request: http::request::Builder, body: Vec<u8>| {
        request
            .header("content-type", "application/json")
            .body(body)
            .expect("the path is made of names")
    };
    let create = request(
        http::Request::post(format!("{url}?fieldValidation=Strict")),
        object.to_string().into_bytes(),
    );
    match client.request::<Value>(create).await {
        Ok(created) => Ok(created["metadata"]["name"].as_str().unwrap_or_default().to_owned()),
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
            let get = request(http::Request::get(format!("{url}/{name}")), Vec::new());
            let old = client.request::<Value>(get).await;
            let old = old.map_err(|e| Failure::kube(format!("cannot get {kind} `{name}`"), e))?;
            if asks_for(&old["spec"], &object["spec"]) {
                tracing::info!(kind, name, "carrying on what is there");
                return Ok(name.to_owned());
            }
            Err(Failure::new(
                ErrorCode::AlreadyExists,
                format!(
                    "{kind} `{name}` exists and asks for something else; give this one another --name, or `mizzen delete {} {name}`",
                    kind.to_lowercase(),
                ),
            ))
        }
        Err(error) => Err(Failure::kube(format!("cannot create {kind} `{name}`"), error)),
    }
}

/// Whether a stored value holds all that was asked for; defaults may have been filled in beside it.
fn asks_for(stored: &Value, asked: &Value) -> bool {
    match (stored, asked) {
        (Value::Object(stored), Value::Object(asked)) => {
            asked.iter().all(|(key, value)| stored.get(key).is_some_and(|s| asks_for(s, value)))
        }
        (Value::Array(stored), Value::Array(asked)) => {
            stored.len() == asked.len() && stored.iter().zip(asked).all(|(s, a)| asks_for(s, a))
        }
        _ => stored == asked,
    }
}

/// A file's text; `-` is stdin.
pub(crate) fn read_file(path: &Path) -> Result<String> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(path)
        .map_err(|e| Failure::from(e).context(format!("cannot read `{}`", path.display())))
}

/// YAML or JSON as a value.
pub(crate) fn parse_yaml(path: &Path, text: &str) -> Result<Value> {
    // `y`, `no` and the like are names of parameters, not truth values.
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|e| {
        Failure::new(ErrorCode::InvalidArgument, format!("`{}` is not YAML: {e}", path.display()))
    })
}

/// SIGTERM and SIGINT, caught from when this is made: a server makes it before it says that it is ready.
pub(crate) struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    pub(crate) fn catch() -> Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    /// Ends on the first signal; a second one ends the process at once.
    pub(crate) async fn first(mut self) {
        self.next().await;
        tracing::info!("stopping; send the signal again to stop at once");
        tokio::spawn(async move {
            self.next().await;
            std::process::exit(130);
        });
    }

    async fn next(&mut self) {
        tokio::select! { _ = self.term.recv() => {}, _ = self.int.recv() => {} }
    }
}

async fn flag(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await; // a sender that is gone means stop, too
}
