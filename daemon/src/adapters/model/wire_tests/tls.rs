//! The same over TLS, with an authority that only the settings name.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    thread::JoinHandle,
};

use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::*;

fn tls_file(name: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/model/tls/");
    PathBuf::from(format!("{folder}{name}"))
}

/// Answers one connection with one reply; gives the request, or nothing where
/// the handshake failed.
fn serve_once() -> (SocketAddr, JoinHandle<Option<String>>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificate = CertificateDer::from_pem_file(tls_file("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(tls_file("server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let connection = ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream = StreamOwned::new(connection, socket);
        let mut request = String::new();
        let mut buffer = [0; 4096];
        while !request.ends_with('}') {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return None,
                Ok(read) => request.push_str(&String::from_utf8_lossy(&buffer[..read])),
            }
        }
        let body = fixture("openai/vllm-text.sse");
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n";
        write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
        stream.flush().unwrap();
        Some(request)
    });
    (address, server)
}

async fn call(
    address: SocketAddr,
    extra_ca_file: Option<PathBuf>,
) -> Result<ModelReply, ModelError> {
    let settings = ModelSettings {
        openai_base_url: Some(format!("https://{address}/v1")),
        openai_api_key: Some(Secret::new(KEY)),
        retry: RetryPolicy {
            max_tries: 1,
            ..RetryPolicy::default()
        },
        extra_ca_file,
        ..ModelSettings::default()
    };
    let (progress, _watch) = mpsc::channel(1);
    let model = model(WireDialect::OpenAi, &settings);
    model
        .call(
            &request(vec![user("go")]),
            &progress,
            &CancellationToken::new(),
        )
        .await
}

#[tokio::test]
async fn an_extra_authority_makes_a_server_trusted() {
    let (address, server) = serve_once();
    let reply = call(address, Some(tls_file("authority.pem")))
        .await
        .unwrap();
    assert_eq!(reply.turn.text, "Hello");
    let request = server.join().unwrap().unwrap();
    assert!(
        request.contains(&format!("authorization: Bearer {KEY}")),
        "{request}"
    );
}

#[tokio::test]
async fn a_server_of_an_unknown_authority_never_sees_the_key() {
    let (address, server) = serve_once();
    let error = call(address, None).await.unwrap_err();
    assert!(matches!(error, ModelError::Unreachable { .. }));
    assert!(error.to_string().contains("certificate"), "{error}");
    assert_eq!(server.join().unwrap(), None);
}
