//! The way of requests.

use super::*;

#[tokio::test]
async fn a_request_is_answered_with_its_id_version_and_values() {
    let f = Fixture::new(|dir| write_model(dir, "m", Kind::Double).unwrap()).await;
    let InferResponse { model, version, id, outputs, .. } =
        f.host.infer(request("m", &[1.0, 2.0, 3.0, 4.0])).await.unwrap();
    assert_eq!((&*model, &*version, id.as_str()), ("m", "1", "7"));
    assert_eq!((&*outputs[0].name, outputs.len()), ("OUTPUT0", 1));
    assert_eq!(fp32_values(&outputs[0].tensor), [2.0, 4.0, 6.0, 8.0]);
}
