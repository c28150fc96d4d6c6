//! The checked-in document of the API is the one that is served.

use std::path::Path;

use serde_json::Value;

use crate::harness::Harness;

fn path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../openapi/lovage.json")
}

#[test]
fn openapi_document_is_up_to_date() {
    let made = lovage_gateway::Gateway::openapi();
    if std::env::var_os("LOVAGE_BLESS").is_some() {
        std::fs::create_dir_all(path().parent().unwrap()).unwrap();
        std::fs::write(path(), &made).unwrap();
    }
    let stored = std::fs::read_to_string(path()).unwrap_or_default();
    assert!(stored == made, "openapi/lovage.json is out of date; run: LOVAGE_BLESS=1 cargo test -p lovage-gateway openapi");
}

#[tokio::test]
async fn openapi_document_is_served() {
    let served = Harness::new().get("/openapi.json").await;
    assert_eq!(String::from_utf8(served.bytes.to_vec()).unwrap(), lovage_gateway::Gateway::openapi());
}

#[test]
fn openapi_operations_are_named_and_may_refuse() {
    let document: Value = serde_json::from_str(&lovage_gateway::Gateway::openapi()).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let mut ids = std::collections::HashSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{method} {path} has no operationId"));
            assert!(ids.insert(id.to_owned()), "{id} is used twice");
            let problem = &operation["responses"]["default"]["content"]["application/problem+json"]["schema"]["$ref"];
            assert_eq!(problem, "#/components/schemas/Problem", "{method} {path}");
            for (status, response) in operation["responses"].as_object().unwrap() {
                assert!(!response["description"].as_str().unwrap_or_default().is_empty(), "{method} {path} {status}");
            }
        }
    }
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(document["components"]["schemas"].get(name).is_some(), "{name} is not defined");
    }
}

/// Signatures are read by hand; what is documented is what is read.
#[tokio::test]
async fn openapi_signature_has_the_fields_that_are_read() {
    let document: Value = serde_json::from_str(&lovage_gateway::Gateway::openapi()).unwrap();
    let h = Harness::new();
    for (schema, path, method, rest) in [
        ("Signature", "/v1/tasks", "POST", r#""task":"a""#),
        ("RetryPolicy", "/v1/tasks", "POST", "retry"),
        ("TaskTypeIn", "/v1/task-types/a", "PUT", r#""queue":"a""#),
        ("WorkerIn", "/v1/workers/w", "PUT", r#""tasks":["a"]"#),
    ] {
        let names: Vec<&String> = document["components"]["schemas"][schema]["properties"].as_object().unwrap().keys().collect();
        assert!(!names.is_empty());
        for name in names {
            // An object is a wrong value for most fields and a right one for the others, but never an unknown field.
            let body = match rest {
                "retry" => format!(r#"{{"task":"a","retry":{{"{name}":{{}}}}}}"#),
                rest if rest.contains(&format!("\"{name}\"")) => continue,
                rest => format!(r#"{{{rest},"{name}":{{}}}}"#),
            };
            let reply = h.call(method.parse().unwrap(), path, &[("content-type", "application/json")], body).await;
            assert!(!String::from_utf8_lossy(&reply.bytes).contains("unknown_field"), "{schema}.{name}");
        }
    }
}
