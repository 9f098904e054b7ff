//! LaunchDarkly over TLS, with the bench's own certificates.
//!
//! The binary trusts only Mozilla's roots, which are compiled in; only this bench would need a setting for more. So the
//! bench uses copies of the packages in which name and key of one root are replaced by its own, of the same lengths;
//! all other bytes are the same. Node reads the certificate from `NODE_EXTRA_CA_CERTS`.

use crate::Result;
use crate::network::FAR;
use crate::subjects::{Subject, World};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor};
use tokio_rustls::rustls::{HandshakeKind, ServerConfig};
use webpki::anchor_from_trusted_cert;

/// The subjects that use LaunchDarkly and trust the bench's authority, and a certificate of that authority.
pub(crate) struct Tls {
    pub(crate) subjects: Vec<Subject>,
    /// The server's and an intermediate certificate, as from public authorities.
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

/// A server that speaks TLS for a world's LaunchDarkly.
pub(crate) struct End {
    pub(crate) port: u16,
    handshakes: Arc<Handshakes>,
}

#[derive(Default)]
struct Handshakes {
    full: AtomicUsize,
    resumed: AtomicUsize,
}

impl End {
    /// The numbers of full and of resumed handshakes.
    pub(crate) fn handshakes(&self) -> (usize, usize) {
        (self.handshakes.full.load(Ordering::Relaxed), self.handshakes.resumed.load(Ordering::Relaxed))
    }
}

impl Tls {
    pub(crate) fn new(root: &Path, subjects: &[Subject]) -> Result<Self> {
        let (params, authority_key, mozillas) = authority()?;
        let authority_certificate = params.self_signed(&authority_key)?;
        let authority = Issuer::new(params, authority_key);
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let intermediate_key = KeyPair::generate()?;
        let intermediate_certificate = params.signed_by(&intermediate_key, &authority)?;
        let intermediate = Issuer::new(params, intermediate_key);
        let key = KeyPair::generate()?;
        let certificate =
            CertificateParams::new(["localhost".to_owned(), FAR.to_owned()])?.signed_by(&key, &intermediate)?;

        let folder = root.join("target/bench/tls");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let pem = folder.join("authority.pem");
        fs::write(&pem, authority_certificate.pem())?;
        let mut trusting = Vec::new();
        for subject in subjects.iter().filter(|subject| subject.asks) {
            let mut subject =
                subject.with(subject.name, subject.label, &[("NODE_EXTRA_CA_CERTS", &pem.to_string_lossy())]);
            if subject.is_rust() {
                subject.folder = copy(&subject, &folder, mozillas, authority_certificate.der())?;
            }
            trusting.push(subject);
        }
        let chain = vec![certificate.der().clone(), intermediate_certificate.der().clone()];
        Ok(Self { subjects: trusting, chain, key })
    }

    pub(crate) fn subject(&self, name: &str) -> Result<&Subject> {
        let subject = self.subjects.iter().find(|subject| subject.name == name);
        subject.ok_or_else(|| format!("no subject {name} uses LaunchDarkly").into())
    }

    /// Without `resumes`, the server issues no sessions, so that every handshake is made in full.
    pub(crate) async fn in_front_of(&self, world: &World, resumes: bool) -> Result<End> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), PrivateKeyDer::try_from(self.key.serialize_der())?)?;
        if !resumes {
            config.send_tls13_tickets = 0;
        }
        let listener = TcpListener::bind("0.0.0.0:0").await?;
        let port = listener.local_addr()?.port();
        let behind: SocketAddr = world.uri.trim_start_matches("http://").parse()?;
        let handshakes = Arc::new(Handshakes::default());
        tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(config)), behind, handshakes.clone()));
        Ok(End { port, handshakes })
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, behind: SocketAddr, handshakes: Arc<Handshakes>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, handshakes) = (acceptor.clone(), handshakes.clone());
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            // A subject that ends breaks its connections; one that rejects the certificate fails its check.
            if let (Ok(mut outer), Ok(mut inner)) = (acceptor.accept(stream).await, TcpStream::connect(behind).await) {
                let is_resumed = outer.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
                let count = if is_resumed { &handshakes.resumed } else { &handshakes.full };
                count.fetch_add(1, Ordering::Relaxed);
                let _ = inner.set_nodelay(true);
                let _ = copy_bidirectional(&mut outer, &mut inner).await;
            }
        });
    }
}

/// The bench's authority, and a root with a name and a key of the same lengths.
fn authority() -> Result<(CertificateParams, KeyPair, &'static TrustAnchor<'static>)> {
    let key = KeyPair::generate()?;
    for length in 1..64 {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "x".repeat(length));
        let certificate = params.self_signed(&key)?;
        let ours = anchor_from_trusted_cert(certificate.der())?;
        let root = webpki_roots::TLS_SERVER_ROOTS.iter().find(|root| {
            root.subject.len() == ours.subject.len()
                && root.subject_public_key_info.len() == ours.subject_public_key_info.len()
                && root.name_constraints.is_none()
        });
        if let Some(root) = root {
            return Ok((params, key, root));
        }
    }
    Err("none of Mozilla's roots has a name and a key of the same lengths".into())
}

/// A copy of a package whose binary has the bench's authority instead of a root.
fn copy(subject: &Subject, folder: &Path, root: &TrustAnchor<'_>, authority: &CertificateDer<'_>) -> Result<PathBuf> {
    let copy = folder.join(subject.name);
    fs::create_dir_all(&copy)?;
    let ours = anchor_from_trusted_cert(authority)?;
    for file in fs::read_dir(&subject.folder)? {
        let path = file?.path();
        let mut bytes = fs::read(&path)?;
        if bytes.starts_with(b"\x7fELF") {
            exchange(&mut bytes, &root.subject, &ours.subject)?;
            exchange(&mut bytes, &root.subject_public_key_info, &ours.subject_public_key_info)?;
        }
        let to = copy.join(path.file_name().unwrap_or_default());
        fs::write(&to, bytes)?;
        fs::set_permissions(to, fs::metadata(path)?.permissions())?;
    }
    Ok(copy)
}

fn exchange(bytes: &mut [u8], old: &[u8], new: &[u8]) -> Result<()> {
    let place = bytes.windows(old.len()).position(|window| window == old);
    let place = place.and_then(|start| bytes.get_mut(start..start + old.len()));
    place.ok_or("the binary does not have the root to replace")?.copy_from_slice(new);
    Ok(())
}
