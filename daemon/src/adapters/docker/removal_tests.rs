//! A container that the engine is removing: somebody asked it to, and it is still
//! at it. Real engines are too fast to be met in between.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixListener,
};
use uuid::Uuid;

use super::*;

/// How often the engine says that it is at it already.
const STILL_AT_IT: usize = 2;

/// An engine with this container alone, in the state `removing`, until it was
/// asked for its removal so often. Counts how often it was asked.
fn engine(listener: UnixListener, workspace: WorkspaceId) -> Arc<Mutex<usize>> {
    let asked: Arc<Mutex<usize>> = Arc::default();
    let told = asked.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4_096];
            let length = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            let line = request.lines().next().unwrap_or_default();
            let (status, body) = answer(line, &workspace, &mut told.lock().unwrap());
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    asked
}

fn answer(line: &str, workspace: &WorkspaceId, asked: &mut usize) -> (&'static str, String) {
    let path = line.split([' ', '?']).nth(1).unwrap_or_default();
    let there = *asked <= STILL_AT_IT;
    let labels = format!(r#"{{"{LABEL_WORKSPACE}":"{workspace}","{LABEL_DAEMON}":"d"}}"#);
    match line.split(' ').next() {
        Some("DELETE") => {
            *asked += 1;
            let message = "removal of container c is already in progress";
            match *asked <= STILL_AT_IT {
                true => ("409 Conflict", format!(r#"{{"message":"{message}"}}"#)),
                false => ("404 Not Found", r#"{"message":"no c"}"#.to_owned()),
            }
        }
        _ if path.ends_with("/containers/json") && there => (
            "200 OK",
            format!(r#"[{{"Id":"c","State":"removing","Labels":{labels}}}]"#),
        ),
        _ if path.ends_with("/containers/json") => ("200 OK", "[]".to_owned()),
        _ if there => (
            "200 OK",
            format!(
                r#"{{"Id":"c","State":{{"Status":"removing","Pid":0}},"Config":{{"Labels":{labels}}}}}"#
            ),
        ),
        _ => ("404 Not Found", r#"{"message":"no c"}"#.to_owned()),
    }
}

#[tokio::test]
async fn a_container_that_is_being_removed_is_of_no_use_and_its_end_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("engine.sock");
    let workspace = WorkspaceId::from_uuid(Uuid::now_v7());
    let asked = engine(UnixListener::bind(&socket).unwrap(), workspace.clone());
    let runtime = DockerRuntime::new(DockerOptions {
        host: Some(format!("unix://{}", socket.display())),
        daemon: "d".to_owned(),
        agent_binary: "/nonexistent".into(),
        labels: BTreeMap::new(),
    });
    let listed = runtime.list().await.unwrap();
    let listed: Vec<_> = (listed.iter().map(|it| (&it.workspace, it.status))).collect();
    assert_eq!(listed, [(&workspace, ContainerStatus::Broken)]);
    let found = runtime.find(&workspace).await.unwrap().unwrap();
    assert_eq!((found.status, found.pid), (ContainerStatus::Broken, 0));

    // Until then it has its name and its volumes: nothing could take its place.
    runtime.remove(&found.id).await.unwrap();
    assert_eq!(*asked.lock().unwrap(), STILL_AT_IT + 1);
    assert_eq!(runtime.find(&workspace).await, Ok(None));
    assert_eq!(runtime.list().await, Ok(vec![]));
}
