//! The way of models.

use super::*;

#[tokio::test]
async fn a_model_is_found_loaded_described_and_unloaded() {
    let f = Fixture::new(|dir| write_model(dir, "m", Kind::Identity).unwrap()).await;
    assert_eq!(f.states(), [("m".to_owned(), "1".to_owned(), "READY")]);
    assert!(f.host.ready());
    assert!(f.host.model_ready("m", Some("1")).unwrap());
    let metadata = f.host.metadata("m", None).unwrap();
    assert_eq!((metadata.versions, metadata.platform), (vec!["1".to_owned()], "fake_model".into()));
    assert_eq!(metadata.inputs[0].shape.0, [-1, 4]);
    f.host.unload("m").await.unwrap();
    assert_eq!(f.states(), [("m".to_owned(), "1".to_owned(), "UNAVAILABLE")]);
    let error = f.values("m", &[0.0; 4]).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unavailable);
    f.host.load("m", LoadOverrides::default()).await.unwrap();
    assert_eq!(f.values("m", &[1.0; 4]).await.unwrap(), [1.0; 4]);
}
