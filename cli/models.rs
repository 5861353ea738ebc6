//! `mizzen models`

mod import;

use std::io::Write;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::{
    failure::{Failure, Result},
    get::rest_escape,
    global::{Global, Output, block_on},
    rest, table,
};

/// Look after the models of a server, and the model registry
#[derive(Debug, Args)]
pub(crate) struct Models {
    #[command(subcommand)]
    action: Action,
    /// Address of the model server's REST endpoint
    #[arg(
        long,
        short = 'u',
        global = true,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:8000"
    )]
    url: String,
    /// API server of a `mizzen up`, which keeps the registry
    #[arg(long, global = true, value_name = "URL", env = "MIZZEN_SERVER", default_value = crate::connect::DEFAULT_SERVER)]
    server: String,
    /// How to print
    #[arg(long, short, global = true, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Models the server knows, their versions and state
    List,
    /// Load a model of the repository, or load it again after a change
    Load {
        /// Its name
        model: String,
    },
    /// Take a model out of service once its requests are answered
    Unload {
        /// Its name
        model: String,
    },
    Import(Box<import::Import>),
    /// Models and versions in the registry
    Registry,
    /// Enter a model into the registry as its next version
    Register {
        /// Its name
        name: String,
        /// Where it lies
        uri: String,
        /// Facts about it, such as accuracy=0.97; once per fact
        #[arg(long, value_name = "KEY=VALUE")]
        note: Vec<String>,
    },
}

impl Models {
    pub(crate) fn run(&self, global: &Global, out: &mut dyn Write) -> Result<()> {
        // What an import has to say, it says itself.
        let logs = if matches!(self.action, Action::Import(_)) { "off" } else { "warn" };
        global.init_logs(logs)?;
        block_on(1, async {
            match &self.action {
                Action::List => self.list(out).await,
                Action::Load { model } => self.control(out, model, "load").await,
                Action::Unload { model } => self.control(out, model, "unload").await,
                Action::Import(import) => import.run(self.output, out).await,
                Action::Registry => self.registry(out).await,
                Action::Register { name, uri, note } => self.register(out, name, uri, note).await,
            }
        })
    }

    async fn list(&self, out: &mut dyn Write) -> Result<()> {
        let index =
            rest::call("POST", &format!("http://{}/v2/repository/index", self.url), None).await?;
        self.print(out, &index, &["name", "version", "state", "reason"], "no models")
    }

    async fn control(&self, out: &mut dyn Write, model: &str, action: &str) -> Result<()> {
        let model = rest_escape(model);
        let url = format!("http://{}/v2/repository/models/{model}/{action}", self.url);
        rest::call("POST", &url, Some(&json!({}))).await?;
        writeln!(out, "{model}: {action}ed").map_err(Failure::from)
    }

    async fn registry(&self, out: &mut dyn Write) -> Result<()> {
        let base = format!("{}/api/model_registry/v1alpha3", self.server.trim_end_matches('/'));
        let versions = rest::call("GET", &format!("{base}/model_versions"), None).await?;
        let mut rows = versions["items"].as_array().cloned().unwrap_or_default();
        for row in &mut rows {
            let ms = row["createTimeSinceEpoch"].as_str().and_then(|ms| ms.parse().ok());
            let created = ms.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
            row["created"] = json!(created.map(|t| t.strftime("%F %T UTC").to_string()));
        }
        let columns = ["registeredModelName", "name", "uri", "created"];
        self.print(out, &rows.into(), &columns, "the registry is empty")
    }

    async fn register(
        &self,
        out: &mut dyn Write,
        name: &str,
        uri: &str,
        notes: &[String],
    ) -> Result<()> {
        let notes: serde_json::Map<String, Value> = notes
            .iter()
            .map(|note| {
                let (key, value) = note.split_once('=').unwrap_or((note, ""));
                (
                    key.to_owned(),
                    json!({ "string_value": value, "metadataType": "MetadataStringValue" }),
                )
            })
            .collect();
        let base = format!("{}/api/model_registry/v1alpha3", self.server.trim_end_matches('/'));
        let body = json!({ "name": name, "uri": uri, "customProperties": notes });
        let version =
            rest::call("POST", &format!("{base}/registered_models:register"), Some(&body)).await?;
        if self.output == Output::Json {
            return writeln!(out, "{version:#}").map_err(Failure::from);
        }
        writeln!(out, "{name} version {} registered", version["name"].as_str().unwrap_or("?"))
            .map_err(Failure::from)
    }

    fn print(
        &self,
        out: &mut dyn Write,
        list: &Value,
        columns: &[&str],
        nothing: &str,
    ) -> Result<()> {
        if self.output == Output::Json {
            return writeln!(out, "{list:#}").map_err(Failure::from);
        }
        let items = list.as_array().map(Vec::as_slice).unwrap_or_default();
        if items.is_empty() {
            return writeln!(std::io::stderr(), "{nothing}").map_err(Failure::from);
        }
        let heading = |column: &&str| match *column {
            "registeredModelName" => "MODEL".to_owned(),
            "name" if columns.contains(&"registeredModelName") => "VERSION".to_owned(),
            other => other.to_uppercase(),
        };
        let header: Vec<String> = columns.iter().map(heading).collect();
        let cell =
            |item: &Value, column: &str| item[column].as_str().unwrap_or_default().to_owned();
        let rows: Vec<Vec<String>> =
            items.iter().map(|i| columns.iter().map(|c| cell(i, c)).collect()).collect();
        table::print(out, &header, &rows)
    }
}
