//! Who a node is, and by what right it is in a mesh: keys, the mesh secret, certificates.
//!
//! A mesh is a certificate authority. With a mesh secret, the authority's key is derived from the
//! secret, so every member can make its own certificate; with a PKI of one's own, the operator hands
//! each node a certificate. Peers check both in the same way: the chain ends at the mesh's root, and
//! the certificate's key is the Ed25519 key that is the node's id.

use std::fmt;
use std::io;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use net_mesh_proto::id::{MeshId, NodeId};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use ring::hkdf;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, TrustAnchor, UnixTime};
use thiserror::Error;

/// Fills 32 bytes from the operating system's generator.
pub(crate) fn random_32() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| io::Error::other("the operating system gives no random numbers"))?;
    Ok(bytes)
}

/// The 32 bytes that make a mesh: who has them can make certificates for it.
#[derive(Clone, PartialEq, Eq)]
pub struct MeshSecret([u8; 32]);

impl MeshSecret {
    /// A new mesh.
    ///
    /// # Errors
    /// If the operating system gives no random numbers.
    pub fn generate() -> io::Result<Self> {
        Ok(Self(random_32()?))
    }

    /// The mesh that these bytes stand for.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for storing them where only their owner can read them.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for MeshSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MeshSecret(..)")
    }
}

/// A node's Ed25519 secret key (RFC 8032).
#[derive(Clone)]
pub struct NodeKey([u8; 32]);

impl NodeKey {
    /// A new key.
    ///
    /// # Errors
    /// If the operating system gives no random numbers.
    pub fn generate() -> io::Result<Self> {
        Ok(Self(random_32()?))
    }

    /// The key with these bytes as its seed.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The seed, for storing it where only its owner can read it.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The id of the node that has this key.
    #[must_use]
    pub fn id(&self) -> NodeId {
        NodeId(SigningKey::from_bytes(&self.0).verifying_key().to_bytes())
    }

    /// The key as PKCS #8 (RFC 8410 §7).
    fn pkcs8(&self) -> PrivatePkcs8KeyDer<'static> {
        let mut der = PKCS8_ED25519_PREFIX.to_vec();
        der.extend_from_slice(&self.0);
        der.into()
    }

    /// The key in a PKCS #8 document, version 1 or 2, if it is an Ed25519 key.
    fn from_pkcs8(der: &[u8]) -> Option<Self> {
        // Version 2 (RFC 5958) differs in the outer length, the version and what follows the key.
        let (_, inner) = der.split_at_checked(5)?;
        let seed = inner.strip_prefix(&PKCS8_ED25519_PREFIX[5..])?.first_chunk::<32>()?;
        Some(Self(*seed))
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey(..)")
    }
}

/// `SEQUENCE { INTEGER 0, SEQUENCE { OID 1.3.101.112 }, OCTET STRING { OCTET STRING (32) } }`.
const PKCS8_ED25519_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// `SEQUENCE { SEQUENCE { OID 1.3.101.112 }, BIT STRING (32 bytes) }` (RFC 8410 §4).
const SPKI_ED25519_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The node whose key is in `certificate`, if that is an Ed25519 key.
pub(crate) fn node_of(certificate: &CertificateDer<'_>) -> Option<NodeId> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let spki = certificate.subject_public_key_info();
    let key = spki.as_ref().strip_prefix(&SPKI_ED25519_PREFIX)?;
    Some(NodeId(key.try_into().ok()?))
}

/// Why an identity could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A PEM document does not hold what it should.
    #[error("the {what} is not usable: {why}")]
    Pem {
        /// Which of the documents.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The node's key is not an Ed25519 key.
    #[error(
        "the node's key is not an Ed25519 key in PKCS #8; make one with `openssl genpkey -algorithm ed25519`"
    )]
    NotEd25519,
    /// The certificate is not of X.509 version 3.
    #[error(
        "the node's certificate is not of X.509 version 3; sign it with an extension, for instance \
         basicConstraints=CA:FALSE"
    )]
    Version,
    /// The certificate is for another key.
    #[error("the certificate is not for this key")]
    KeyMismatch,
    /// The certificate is not signed by the certificate authority, or not now, or not for this use.
    #[error("the certificate does not verify against the certificate authority: {0}")]
    NotTrusted(String),
    /// A certificate could not be made.
    #[error("making the node's certificate failed: {0}")]
    Generate(String),
}

/// What a node proves itself with, and what it checks others against.
#[derive(Clone)]
pub struct Identity {
    pub(crate) key: NodeKey,
    pub(crate) root: Arc<TrustAnchor<'static>>,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    mesh: MeshId,
}

impl Identity {
    /// The identity of the node with `key` in the mesh of `secret`.
    ///
    /// # Errors
    /// If the certificate cannot be made.
    pub fn from_secret(secret: &MeshSecret, key: &NodeKey) -> Result<Self, IdentityError> {
        let failed = |e: rcgen::Error| IdentityError::Generate(e.to_string());
        let ca_key = key_pair(&ca_key(secret)).map_err(failed)?;
        let ca_params = ca_params();
        let ca = ca_params.self_signed(&ca_key).map_err(failed)?.der().clone();
        let issuer = Issuer::new(ca_params, ca_key);
        let node_key = key_pair(key).map_err(failed)?;
        let leaf = leaf_params(&key.id()).signed_by(&node_key, &issuer).map_err(failed)?;
        Self::checked(key.clone(), &ca, vec![leaf.der().clone()])
    }

    /// An identity from a PKI of one's own, from PEM texts: the certificate authority's certificate, the
    /// node's certificate (followed by intermediates, if any), and the node's Ed25519 key in PKCS #8.
    ///
    /// The certificate needs no particular name. If it restricts its use, it must allow both
    /// `serverAuth` and `clientAuth`, since every node does both.
    ///
    /// # Errors
    /// If one of them does not parse, or they do not belong together.
    pub fn from_pem(ca: &str, certificate: &str, key: &str) -> Result<Self, IdentityError> {
        let bad =
            |what| move |e: rustls::pki_types::pem::Error| IdentityError::Pem { what, why: e.to_string() };
        let ca = CertificateDer::from_pem_slice(ca.as_bytes()).map_err(bad("CA certificate"))?;
        let chain = CertificateDer::pem_slice_iter(certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(bad("node's certificate"))?;
        if chain.is_empty() {
            let why = "it holds no certificate".to_owned();
            return Err(IdentityError::Pem { what: "node's certificate", why });
        }
        let PrivateKeyDer::Pkcs8(key) =
            PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(bad("node's key"))?
        else {
            return Err(IdentityError::NotEd25519);
        };
        let key = NodeKey::from_pkcs8(key.secret_pkcs8_der()).ok_or(IdentityError::NotEd25519)?;
        Self::checked(key, &ca, chain)
    }

    fn checked(
        key: NodeKey,
        ca: &CertificateDer<'_>,
        chain: Vec<CertificateDer<'static>>,
    ) -> Result<Self, IdentityError> {
        let not_trusted = |e: webpki::Error| IdentityError::NotTrusted(e.to_string());
        let root = webpki::anchor_from_trusted_cert(ca).map_err(not_trusted)?.to_owned();
        if let Err(webpki::Error::UnsupportedCertVersion) = webpki::EndEntityCert::try_from(&chain[0]) {
            return Err(IdentityError::Version);
        }
        if node_of(&chain[0]) != Some(key.id()) {
            return Err(IdentityError::KeyMismatch);
        }
        for usage in [webpki::KeyUsage::server_auth(), webpki::KeyUsage::client_auth()] {
            verify_chain(&root, &chain[0], &chain[1..], UnixTime::now(), usage).map_err(not_trusted)?;
        }
        let mesh = MeshId::of_root(&root.subject_public_key_info);
        Ok(Self { key, root: Arc::new(root), chain, mesh })
    }

    /// The node's id.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.key.id()
    }

    /// The mesh's id.
    #[must_use]
    pub const fn mesh_id(&self) -> MeshId {
        self.mesh
    }

    /// 32 bytes derived from the node's key for the purpose `label`, the same at every start.
    pub(crate) fn derive(&self, label: &str) -> [u8; 32] {
        derive(self.key.as_bytes(), label)
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        self.key.pkcs8().into()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("node", &self.node_id()).field("mesh", &self.mesh).finish()
    }
}

/// The mesh that `secret` makes.
pub(crate) fn mesh_of(secret: &MeshSecret) -> MeshId {
    // The root's public key information has a fixed form, so no certificate is needed to hash it. The
    // trust anchor holds it without its outer header.
    let mut spki = SPKI_ED25519_PREFIX[2..].to_vec();
    spki.extend_from_slice(&ca_key(secret).id().0);
    MeshId::of_root(&spki)
}

/// Checks that `leaf` chains to `root` at `now` and may be used for `usage`.
pub(crate) fn verify_chain(
    root: &TrustAnchor<'_>,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    usage: webpki::KeyUsage,
) -> Result<(), webpki::Error> {
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
    webpki::EndEntityCert::try_from(leaf)?
        .verify_for_usage(algorithms, std::slice::from_ref(root), intermediates, now, usage, None, None)
        .map(|_| ())
}

fn ca_key(secret: &MeshSecret) -> NodeKey {
    NodeKey(derive(secret.as_bytes(), "net-mesh certificate authority v1"))
}

/// HKDF-SHA256 (RFC 5869) with `label` as its context.
pub(crate) fn derive(secret: &[u8], label: &str) -> [u8; 32] {
    let mut out = [0; 32];
    hkdf::Salt::new(hkdf::HKDF_SHA256, b"net-mesh")
        .extract(secret)
        .expand(&[label.as_bytes()], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut out))
        .expect("32 bytes are within what HKDF-SHA256 can give");
    out
}

fn key_pair(key: &NodeKey) -> Result<KeyPair, rcgen::Error> {
    KeyPair::from_pkcs8_der_and_sign_algo(&key.pkcs8(), &rcgen::PKCS_ED25519)
}

/// The authority's certificate. Everything in it is fixed or follows from its key, so every member
/// arrives at the same one. It does not expire: the secret is what admits, and clocks may be wrong.
fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "net-mesh");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params
}

fn leaf_params(id: &NodeId) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, id.to_string());
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(byte: u8) -> MeshSecret {
        MeshSecret::from_bytes([byte; 32])
    }

    #[test]
    fn every_member_of_a_secret_arrives_at_the_same_root() {
        let a = Identity::from_secret(&secret(1), &NodeKey([2; 32])).unwrap();
        let b = Identity::from_secret(&secret(1), &NodeKey([3; 32])).unwrap();
        assert_eq!(a.root, b.root);
        assert_eq!(a.mesh_id(), mesh_of(&secret(1)));
        assert_ne!(a.mesh_id(), mesh_of(&secret(2)));
        assert_eq!(node_of(&a.chain[0]), Some(a.node_id()));
    }

    #[test]
    fn a_certificate_of_one_mesh_does_not_verify_in_another() {
        let a = Identity::from_secret(&secret(1), &NodeKey([2; 32])).unwrap();
        let b = Identity::from_secret(&secret(9), &NodeKey([2; 32])).unwrap();
        let usage = webpki::KeyUsage::client_auth();
        assert!(verify_chain(&b.root, &a.chain[0], &[], UnixTime::now(), usage).is_err());
    }

    /// An authority and a node certificate as an operator's own tools would make them.
    fn own_pki(node: &NodeKey) -> (String, String, String) {
        let ca_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key).unwrap().pem();
        let key = key_pair(node).unwrap();
        let leaf = CertificateParams::new(vec!["host.example".to_owned()])
            .unwrap()
            .signed_by(&key, &Issuer::new(params, ca_key))
            .unwrap();
        (ca, leaf.pem(), key.serialize_pem())
    }

    #[test]
    fn an_operators_own_pki_gives_an_identity() {
        let node = NodeKey([7; 32]);
        let (ca, cert, key) = own_pki(&node);
        let identity = Identity::from_pem(&ca, &cert, &key).unwrap();
        assert_eq!(identity.node_id(), node.id());
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let (ca, cert, _) = own_pki(&NodeKey([7; 32]));
        let (other_ca, _, other_key) = own_pki(&NodeKey([8; 32]));
        assert!(matches!(Identity::from_pem(&ca, &cert, &other_key), Err(IdentityError::KeyMismatch)));
        let key = key_pair(&NodeKey([7; 32])).unwrap().serialize_pem();
        assert!(matches!(Identity::from_pem(&other_ca, &cert, &key), Err(IdentityError::NotTrusted(_))));
        assert!(matches!(Identity::from_pem("", &cert, &key), Err(IdentityError::Pem { .. })));
        let ecdsa = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
        assert!(matches!(Identity::from_pem(&ca, &cert, &ecdsa), Err(IdentityError::NotEd25519)));
    }
}
