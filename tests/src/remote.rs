//! A daemon from another machine's side: its certificates, its tokens, and raw
//! connections to it.

use std::{net::SocketAddr, sync::Arc};

use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint, Uri},
};

use crate::daemon::{Daemon, Options};

/// Listening on a port with TLS that the kernel chooses.
#[must_use]
pub fn with_tls(options: Options) -> Options {
    options.listen("https://127.0.0.1:0")
}

/// A connection that shows a token with each call.
pub type Transport = InterceptedService<Channel, Bearer>;

/// Shows a token.
#[derive(Debug, Clone)]
pub struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request
            .metadata_mut()
            .insert("authorization", self.0.clone());
        Ok(request)
    }
}

impl Bearer {
    /// Shows this token.
    ///
    /// # Panics
    /// When it cannot be sent.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(format!("Bearer {token}").parse().expect("tokens are ASCII"))
    }
}

/// Where a daemon serves with TLS.
#[derive(Debug, Clone)]
pub struct Remote {
    /// Its port.
    pub address: SocketAddr,
    /// What `compyctl login` is told to trust.
    pub fingerprint: String,
    tls: Arc<ClientConfig>,
}

impl Remote {
    /// As the daemon's log says.
    ///
    /// # Panics
    /// When it says nothing of that.
    #[must_use]
    pub fn of(daemon: &Daemon) -> Self {
        let log = daemon.log();
        let (_, rest) = log
            .rsplit_once("compyctl login https://")
            .expect("the log says how to log in");
        let mut words = rest.split_whitespace();
        let address = words.next().expect("an address").parse();
        let flag = words.next().expect("a flag");
        assert_eq!(flag, "--ca-fingerprint");
        let fingerprint = words.next().expect("a fingerprint").to_owned();
        let authority = std::fs::read(daemon.data_dir().join("tls/ca.crt"));
        let authority = CertificateDer::from_pem_slice(&authority.expect("an authority"));
        let mut roots = RootCertStore::empty();
        roots
            .add(authority.expect("a certificate"))
            .expect("one that can be trusted");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(rustls::DEFAULT_VERSIONS)
            .expect("the provider has the versions of its own")
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Self {
            address: address.expect("an IP address and a port"),
            fingerprint,
            tls: Arc::new(tls),
        }
    }

    /// Its endpoint for `compyctl`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("https://{}", self.address)
    }

    /// A connection that is encrypted and on which nothing was said.
    ///
    /// # Errors
    /// It cannot be made.
    pub async fn dial(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(self.address.ip().into());
        TlsConnector::from(self.tls.clone())
            .connect(name, stream)
            .await
    }

    /// A connection without a token, made when it is used and anew when it was
    /// closed.
    #[must_use]
    pub fn channel(&self) -> Channel {
        let remote = self.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let remote = remote.clone();
            async move { remote.dial().await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://compyd").connect_with_connector_lazy(connector)
    }

    /// A connection of a client with a token.
    ///
    /// # Errors
    /// It cannot be made.
    pub async fn connect(&self, token: &str) -> Result<Transport, tonic::transport::Error> {
        let remote = self.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let remote = remote.clone();
            async move { remote.dial().await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://compyd")
            .connect_with_connector(connector)
            .await?;
        Ok(InterceptedService::new(channel, Bearer::of(token)))
    }
}

impl Daemon {
    /// Makes a token with `compyctl token create` and these arguments; its secret.
    ///
    /// # Panics
    /// When that fails.
    pub async fn token(&self, name: &str, role: &str, more: &[&str]) -> String {
        let mut args = vec!["token", "create", name, "--role", role];
        args.extend(more);
        let made = self.compyctl(&args).await.expect_code(0);
        made.text().trim().to_owned()
    }
}
