//! A server over the fake engine, to point a client at without any model or engine.
//!
//! Prints the ready line, serves until its standard input ends.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a development tool")]

use mizzen_serving_host::{
    HostOptions, ModelControl, ModelHost,
    testing::{FakeModel, Kind, fake_loader},
};
use mizzen_serving_server::{Listen, Server, ServerOptions};
use mizzen_types::DataType;

#[tokio::main]
async fn main() {
    let dir = tempfile::tempdir().unwrap();
    let batching = |name: &str| format!("name: \"{name}\" backend: \"fake\" max_batch_size: 8");
    for (name, kind) in [("double", Kind::Double), ("fail", Kind::Fail)] {
        FakeModel::new(kind).config(&batching(name)).write(dir.path(), name, 1).unwrap();
    }
    for dtype in DataType::ALL {
        let name = format!("identity_{dtype}").to_lowercase();
        let model = FakeModel::bare(Kind::Identity).pair("INPUT0", "OUTPUT0", dtype, &[-1, -1]);
        model.config(&batching(&name)).write(dir.path(), &name, 1).unwrap();
    }
    let host = HostOptions {
        repositories: vec![dir.path().to_owned()],
        control: ModelControl::Explicit,
        load: vec!["*".to_owned()],
        ..Default::default()
    };
    let host = ModelHost::start(host, vec![fake_loader()]).unwrap();
    host.loaded().await;
    let any = Listen::local(0);
    let options = ServerOptions { http: any, grpc: any, metrics: any, ..Default::default() };
    let server = Server::bind(options, host).await.unwrap();
    println!("ready {}", server.addresses());
    let end_of_input = async {
        let read = || std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        tokio::task::spawn_blocking(read).await.unwrap().unwrap();
    };
    assert_eq!(server.run(end_of_input).await.left, 0, "inferences were cut off");
}
