//! Redis over TLS, with a certificate of a private authority.

use crate::faults::{check, sixty};
use flag_data::items::ItemKind::Flag;
use flag_data::stores::{Redis, Store, StoreError};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use standins::servers::{self, Server};
use std::fs;
use std::path::Path;

/// An authority: its certificate (PEM) and its key.
fn authority(name: &str) -> (String, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), Issuer::new(params, key))
}

/// A Redis with a certificate for this name; `folder` is the test's own.
fn start(folder: &str, name: &str, authority: &Issuer<'_, KeyPair>) -> Server {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
    fs::create_dir_all(&folder).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, authority).unwrap();
    let [certificate, key] =
        [("redis.crt", certificate.pem()), ("redis.key", key.serialize_pem())].map(|(file, pem)| {
            let file = folder.join(file);
            fs::write(&file, pem).unwrap();
            file.display().to_string()
        });
    servers::start_redis_with_tls(&certificate, &key)
}

fn store(scheme: &str, server: &Server, root: Option<&str>) -> Redis {
    let redis = Redis::new(format!("{scheme}://127.0.0.1:{}", server.port)).unwrap();
    root.into_iter().try_fold(redis, Redis::root_certificate).unwrap()
}

#[track_caller]
fn check_rejected(error: &StoreError, expected: &str) {
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    check(error, &["Redis at 127.0.0.1:", "was not reached", expected]);
}

#[tokio::test]
async fn a_redis_with_a_certificate_of_a_private_authority_is_used_with_its_root_only() {
    let (root, authority) = authority("ours");
    let server = start("redis-tls", "127.0.0.1", &authority);
    let trusting = store("rediss", &server, Some(&root));
    trusting.replace(&sixty()).await.unwrap();
    assert_eq!(trusting.all(Flag).await.unwrap(), sixty().flags);

    let (another, _) = self::authority("another");
    for root in [None, Some(another.as_str())] {
        let error = store("rediss", &server, root).read(&[]).await.unwrap_err();
        check_rejected(&error, "invalid peer certificate: UnknownIssuer");
    }
    assert!(store("redis", &server, None).read(&[]).await.is_err(), "it accepts TLS only");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_rejected() {
    let (root, authority) = authority("ours");
    let server = start("redis-tls-name", "flags.example.com", &authority);
    let error = store("rediss", &server, Some(&root)).read(&[]).await.unwrap_err();
    check_rejected(&error, "certificate not valid for name \"127.0.0.1\"");
}

#[test]
fn an_invalid_root_certificate_is_rejected_when_the_store_is_built() {
    let key = KeyPair::generate().unwrap().serialize_pem();
    for (root, expected) in [
        ("", "is not a certificate in PEM format"),
        (&key, "is not a certificate in PEM format"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "trust anchors"),
    ] {
        let redis = Redis::new("rediss://127.0.0.1:6379").unwrap();
        let error = redis.root_certificate(root).err().unwrap_or_else(|| panic!("{root:?} was accepted"));
        check(&error, &["invalid settings for Redis at 127.0.0.1:6379", expected]);
    }
}
