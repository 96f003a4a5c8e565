//! A record passed on by anyone: it parses within its bounds or is refused; what was parsed survives
//! being signed again; and no mutation of a genuine one is ever taken for genuine.
#![no_main]

use ed25519_dalek::SigningKey;
use libfuzzer_sys::fuzz_target;
use net_mesh_proto::id::MeshId;
use net_mesh_proto::membership::{
    MAX_CANDIDATES, MAX_LINKS, MAX_NAME, MAX_RECORD_BYTES, MAX_SUBSCRIPTIONS, Unverified,
};

fuzz_target!(|bytes: &[u8]| {
    let Ok(parsed) = Unverified::parse(bytes) else { return };
    let claims = parsed.claims().clone();
    assert!(claims.name.len() <= MAX_NAME && claims.candidates.len() <= MAX_CANDIDATES);
    assert!(claims.links.len() <= MAX_LINKS && claims.subscriptions.len() <= MAX_SUBSCRIPTIONS);

    let mesh = MeshId([1; 32]);
    let key = SigningKey::from_bytes(&[2; 32]);
    let again = claims.clone().sign(&key, &mesh);
    assert!(again.bytes().len() <= MAX_RECORD_BYTES);
    let reparsed = Unverified::parse(again.bytes()).expect("what was signed parses");
    assert_eq!(*reparsed.claims(), claims);
    // Signed by a key that is not its node's, unless the input names that very node.
    if claims.node.0 != key.verifying_key().to_bytes() {
        assert!(reparsed.verify(&mesh).is_none());
    }
});
