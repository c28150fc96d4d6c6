//! `unique` and `debounce`: what becomes of a task whose key another one has.

use std::time::Duration;

use lovage_tests::{Answer, Reply};
use serde_json::{Value, json};

use super::site::{PATIENCE, Site, Store, quick_retry, slow_retry};

on_both_stores!(
    the_holder_is_the_answer,
    the_holder_is_named,
    the_holder_is_replaced,
    a_running_holder_is_asked_to_stop,
    a_key_is_held_as_long_as_its_scope_says,
    a_failed_run_frees_the_key,
    a_manual_retry_takes_its_key_again,
    a_replay_wants_the_same_key,
    a_key_goes_with_its_record,
    of_a_burst_the_last_runs,
    a_burst_ends_after_max_wait,
    keys_in_batches,
    keys_in_atomic_batches,
    keys_come_in_headers,
    keys_and_idempotency,
    ids_and_keys,
    ids_are_taken_wherever_they_live,
    an_id_away_from_home_is_found,
    children_have_no_keys,
);

fn unique(task: &str, key: &str, more: &Value) -> Value {
    let mut unique = json!({"key": key});
    unique.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    json!({"task": task, "unique": unique})
}

async fn submit(site: &Site, signature: &Value) -> Answer {
    site.post("/v1/tasks", signature).await
}

/// With these fields as well.
fn with(mut signature: Value, more: &Value) -> Value {
    signature.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    signature
}

async fn states(site: &Site, ids: &[&str]) -> Vec<String> {
    let mut states = Vec::new();
    for id in ids {
        let record = site.task(id).await;
        let reason = record["reason"].as_str().unwrap_or_default();
        states.push(format!("{} {reason}", record["state"].as_str().unwrap()).trim().to_owned());
    }
    states
}

async fn the_holder_is_the_answer(store: Store) {
    let site = store.dev().await;
    site.worker.on("work", Reply::json(&json!(7)));
    let signature = unique("work", "invoice:7", &json!({}));
    let first = submit(&site, &signature).await;
    let other = submit(&site, &with(signature.clone(), &json!({"args": [1]}))).await;
    assert_eq!((first.status, other.status, other.id()), (202, 200, first.id()));
    assert_ne!(submit(&site, &unique("work", "invoice:8", &json!({}))).await.id(), first.id());
    // It is free again when the task is done.
    site.serves(&["work"]).await;
    site.wait_final(&first.id()).await;
    let later = submit(&site, &signature).await;
    assert_eq!(later.status, 202);
    assert_ne!(later.id(), first.id());
    site.wait_final(&later.id()).await;
    // One that waits for the holder gets its result.
    let gate = site.worker.hold("work", Reply::json(&json!("shared")));
    let holder = submit(&site, &signature).await;
    let seen = site.worker.count();
    let (shared, ()) = tokio::join!(site.post("/v1/tasks?wait=20s", &signature), async {
        site.worker.wait_for(seen.max(3)).await;
        gate.open();
    });
    assert_eq!((shared.status, shared.id(), &shared.json["result"]), (200, holder.id(), &json!("shared")));
}

async fn the_holder_is_named(store: Store) {
    let site = store.dev().await;
    let signature = unique("nobody", "k", &json!({"on_conflict": "reject"}));
    let first = submit(&site, &signature).await;
    let refused = submit(&site, &signature).await;
    assert_eq!((refused.status, refused.code(), &refused.json["existing_id"]), (409, "unique_conflict", &json!(first.id())));
    assert_eq!(site.list("/v1/tasks").await.len(), 1);
}

async fn the_holder_is_replaced(store: Store) {
    let site = store.dev().await;
    let signature = |n: u32| with(unique("nobody", "k", &json!({"on_conflict": "replace"})), &json!({"args": [n]}));
    let mut ids = Vec::new();
    for n in 0..3 {
        let answer = submit(&site, &signature(n)).await;
        assert_eq!(answer.status, 202);
        ids.push(answer.id());
    }
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    assert_eq!(states(&site, &ids).await, ["canceled replaced", "canceled replaced", "queued"]);
    // The key is the newest one's.
    let shared = submit(&site, &unique("nobody", "k", &json!({}))).await;
    assert_eq!((shared.status, &*shared.id()), (200, ids[2]));
}

async fn a_running_holder_is_asked_to_stop(store: Store) {
    let site = store.dev().await;
    let gate = site.worker.hold("work", Reply::json(&json!("too late to stop")));
    site.serves(&["work"]).await;
    let first = submit(&site, &unique("work", "k", &json!({}))).await.id();
    site.worker.wait_for(1).await;
    let signature = unique("nobody", "k", &json!({"on_conflict": "replace"}));
    let second = submit(&site, &signature).await.id();
    let record = site.task(&first).await;
    assert_eq!((&record["state"], &record["cancel_requested"]), (&json!("running"), &json!(true)));
    // The key is passed on at once, and the one that is stopping does not stand in the way of a third.
    let third = submit(&site, &signature).await.id();
    assert_eq!(states(&site, &[&second, &third]).await, ["canceled replaced", "queued"]);
    gate.open();
    assert_eq!(site.wait_final(&first).await["state"], "succeeded");
    assert_eq!(submit(&site, &unique("nobody", "k", &json!({}))).await.id(), third);
}

async fn a_key_is_held_as_long_as_its_scope_says(store: Store) {
    let site = store.dev().await;
    let gate = site.worker.hold("work", Reply::json(&json!(1)));
    let queued = unique("work", "queued", &json!({"scope": "queued"}));
    let active = unique("work", "active", &json!({"scope": "active"}));
    let lasting = unique("work", "ttl", &json!({"scope": "ttl", "ttl": "1h"}));
    let brief = unique("work", "brief", &json!({"scope": "ttl", "ttl": "200ms"}));
    let all = [&queued, &active, &lasting, &brief];
    let mut first = Vec::new();
    for signature in all {
        first.push(submit(&site, signature).await.id());
    }
    assert_eq!(submit(&site, &queued).await.id(), first[0]);
    site.serves(&["work"]).await;
    site.worker.wait_for(4).await;
    // They run: only the key of what waits is free.
    assert_ne!(submit(&site, &queued).await.id(), first[0]);
    assert_eq!(submit(&site, &active).await.id(), first[1]);
    assert_eq!(submit(&site, &lasting).await.id(), first[2]);
    gate.open();
    for id in &first {
        site.wait_final(id).await;
    }
    assert_ne!(submit(&site, &active).await.id(), first[1]);
    assert_eq!(submit(&site, &lasting).await.id(), first[2]);
    let free = lovage_tests::eventually("the short time to pass", PATIENCE, async || {
        let answer = submit(&site, &brief).await;
        (answer.id() != first[3]).then_some(answer.status)
    });
    assert_eq!(free.await, 202);
}

async fn a_failed_run_frees_the_key(store: Store) {
    let site = store.dev().await;
    site.worker.on("bad", Reply::status(400));
    site.worker.on("flaky", Reply::status(500));
    site.serves(&["bad", "flaky"]).await;
    for scope in [json!({}), json!({"scope": "ttl", "ttl": "1h"})] {
        let signature = unique("bad", "k", &scope);
        let first = submit(&site, &signature).await.id();
        assert_eq!(site.wait_final(&first).await["state"], "failed");
        let second = submit(&site, &signature).await;
        assert_eq!(second.status, 202);
        site.wait_final(&second.id()).await;
        let canceled = submit(&site, &unique("nobody", "k", &scope)).await.id();
        site.post(&format!("/v1/tasks/{canceled}/cancel"), &json!({})).await;
        assert_eq!(submit(&site, &signature).await.status, 202);
        lovage_tests::eventually("all to be done", PATIENCE, async || {
            site.list("/v1/tasks?state=queued&state=running").await.is_empty().then_some(())
        })
        .await;
    }
    // One that will be tried again has not failed.
    let signature = with(unique("flaky", "flaky", &json!({})), &json!({"retry": slow_retry()}));
    let first = submit(&site, &signature).await.id();
    site.judged(&first).await;
    assert_eq!(submit(&site, &signature).await.id(), first);
}

async fn a_manual_retry_takes_its_key_again(store: Store) {
    let site = store.dev().await;
    site.worker.on("bad", Reply::status(400));
    site.serves(&["bad"]).await;
    let retry = async |id: &str| site.post(&format!("/v1/tasks/{id}/retry"), &json!({})).await;
    let failed = submit(&site, &unique("bad", "k", &json!({}))).await.id();
    site.wait_final(&failed).await;
    let newer = submit(&site, &unique("nobody", "k", &json!({}))).await.id();
    let refused = retry(&failed).await;
    assert_eq!((refused.status, refused.code(), &refused.json["existing_id"]), (409, "unique_conflict", &json!(newer)));
    assert_eq!(site.task(&failed).await["state"], "failed");
    site.post(&format!("/v1/tasks/{newer}/cancel"), &json!({})).await;
    let gate = site.worker.hold("bad", Reply::json(&json!("good")));
    assert_eq!(retry(&failed).await.status, 200);
    // It has the key again.
    assert_eq!(submit(&site, &unique("nobody", "k", &json!({}))).await.id(), failed);
    gate.open();
    assert_eq!(site.wait_final(&failed).await["state"], "succeeded");
    assert_eq!(submit(&site, &unique("nobody", "k", &json!({}))).await.status, 202);
}

async fn a_replay_wants_the_same_key(store: Store) {
    let site = store.dev().await;
    let first = submit(&site, &unique("nobody", "k", &json!({}))).await.id();
    let path = format!("/v1/tasks/{first}/replay");
    let shared = site.post(&path, &json!({})).await;
    assert_eq!((shared.status, shared.id()), (200, first.clone()));
    let edits = json!({"edits": {"unique": {"key": "k", "on_conflict": "replace"}}});
    let newer = site.post(&path, &edits).await;
    assert_eq!(newer.status, 202);
    assert_eq!(states(&site, &[&first, &newer.id()]).await, ["canceled replaced", "queued"]);
}

async fn a_key_goes_with_its_record(store: Store) {
    let site = store.dev().await;
    site.worker.on("work", Reply::status(204));
    site.serves(&["work"]).await;
    let lasting = with(unique("work", "k", &json!({"scope": "ttl", "ttl": "1h"})), &json!({"retention": "10ms"}));
    let first = submit(&site, &lasting).await.id();
    site.wait_final(&first).await;
    // Its record is kept for as long as it has the key, whatever its retention.
    for _ in 0..3 {
        assert_eq!(submit(&site, &lasting).await.id(), first);
    }
    assert_eq!(site.delete(&format!("/v1/tasks/{first}")).await.status, 204);
    assert_eq!(submit(&site, &lasting).await.status, 202);
}

fn debounced(wait: &str, more: &Value) -> Value {
    let mut debounce = json!({"key": "k", "wait": wait});
    debounce.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    json!({"task": "work", "debounce": debounce})
}

async fn of_a_burst_the_last_runs(store: Store) {
    let site = store.dev().await;
    site.worker.on("work", Reply::status(204));
    site.serves(&["work"]).await;
    let mut ids = Vec::new();
    for n in 0..5 {
        let answer = submit(&site, &with(debounced("1s", &json!({})), &json!({"args": [n]}))).await;
        assert_eq!((answer.status, &answer.json["state"]), (202, &json!("scheduled")));
        ids.push(answer.id());
    }
    let (last, others) = ids.split_last().unwrap();
    let record = site.wait_final(last).await;
    assert_eq!(record["state"], "succeeded");
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    assert_eq!(states(&site, &others).await, ["canceled debounced"; 4]);
    assert_eq!(site.worker.received().iter().map(|call| call.json()["args"][0].clone()).collect::<Vec<_>>(), [json!(4)]);
    // What comes afterwards is another burst.
    assert_eq!(submit(&site, &debounced("1h", &json!({}))).await.json["state"], "scheduled");
    assert_eq!(site.task(last).await["state"], "succeeded");
}

async fn a_burst_ends_after_max_wait(store: Store) {
    let site = store.dev().await;
    let signature = debounced("1h", &json!({"max_wait": "1h"}));
    let first = site.task(&submit(&site, &signature).await.id()).await;
    let second = site.task(&submit(&site, &signature).await.id()).await;
    // As late as the first one allows, although the wait would go on.
    assert_eq!(second["due_at"], first["due_at"]);
    let free = debounced("1h", &json!({}));
    let third = site.task(&submit(&site, &free).await.id()).await;
    assert!(third["due_at"].as_str() > second["due_at"].as_str(), "{third}");
    // A stream of submits does not keep the task from running.
    site.worker.on("work", Reply::status(204));
    site.serves(&["work"]).await;
    let stream = json!({"task": "work", "debounce": {"key": "stream", "wait": "400ms", "max_wait": "500ms"}});
    let served = async || (site.worker.count() > 0).then_some(());
    lovage_tests::eventually("a task of the stream to run", Duration::from_secs(10), async || {
        submit(&site, &stream).await;
        served().await
    })
    .await;
}

async fn keys_in_batches(store: Store) {
    let site = store.dev().await;
    let reject = json!({"on_conflict": "reject"});
    let batch = json!([
        unique("nobody", "a", &json!({})),
        unique("nobody", "a", &json!({})),
        unique("nobody", "a", &reject),
        unique("nobody", "b", &json!({"on_conflict": "replace"})),
        with(unique("nobody", "b", &json!({"on_conflict": "replace"})), &json!({"args": [2]})),
        {"task": "nobody"},
        debounced("1h", &json!({})),
        debounced("1h", &json!({})),
    ]);
    let answer = site.post("/v1/tasks:batch", &batch).await;
    let items = answer.items();
    let statuses: Vec<u64> = items.iter().map(|item| item["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [202, 200, 409, 202, 202, 202, 202, 202]);
    assert_eq!((&items[1]["id"], &items[2]["problem"]["existing_id"]), (&items[0]["id"], &items[0]["id"]));
    let id = |n: usize| items[n]["id"].as_str().unwrap();
    assert_eq!(
        states(&site, &[id(3), id(4), id(6), id(7)]).await,
        ["canceled replaced", "queued", "canceled debounced", "scheduled"]
    );
    // As lines as well.
    let lines = site.submit_ndjson(&[unique("nobody", "a", &json!({})), unique("nobody", "c", &json!({}))]).await;
    let lines = lines.items();
    assert_eq!((&lines[0]["status"], &lines[0]["id"], &lines[1]["status"]), (&json!(200), &items[0]["id"], &json!(202)));
}

async fn keys_in_atomic_batches(store: Store) {
    let site = store.dev().await;
    let post = async |batch: &Value| site.post("/v1/tasks:batch?atomic=true", batch).await;
    let held = submit(&site, &unique("nobody", "k", &json!({}))).await.id();
    let shared = post(&json!([{"task": "nobody"}, unique("nobody", "k", &json!({}))])).await;
    assert_eq!((shared.status, &shared.items()[1]), (200, &json!({"status": 200, "id": held})));
    assert_eq!(shared.items()[0]["status"], 202);
    let count = site.list("/v1/tasks").await.len();
    let refused = post(&json!([{"task": "nobody"}, unique("nobody", "k", &json!({"on_conflict": "reject"}))])).await;
    assert_eq!((refused.status, refused.code(), refused.pointers()), (409, "unique_conflict", vec!["/1"]));
    assert_eq!(site.list("/v1/tasks").await.len(), count);
    let replaced =
        post(&json!([{"task": "nobody"}, unique("nobody", "k", &json!({"on_conflict": "replace"})), {"task": "nobody"}])).await;
    assert_eq!(replaced.items().iter().map(|item| item["status"].as_u64().unwrap()).collect::<Vec<_>>(), [202; 3]);
    assert_eq!(states(&site, &[&held]).await, ["canceled replaced"]);
    assert_eq!(submit(&site, &unique("nobody", "k", &json!({}))).await.id(), replaced.ids()[1]);
    for replaces in [json!({"on_conflict": "replace"}), json!({})] {
        let twice =
            post(&json!([unique("nobody", "x", &json!({"on_conflict": "replace"})), unique("nobody", "x", &replaces)])).await;
        assert_eq!((twice.status, twice.pointers()), (422, vec!["/1/unique/key"]));
    }
    // In several partitions keys may lie apart; that is said, and nothing is stored.
    let apart: Vec<Value> = (0..20).map(|n| unique("nobody", &format!("apart-{n}"), &json!({}))).collect();
    let answer = post(&json!(apart)).await;
    match store {
        Store::Embedded => assert_eq!(answer.ids().len(), 20),
        Store::Redis => assert!(answer.status == 422 && answer.pointers()[0].ends_with("/unique/key"), "{}", answer.json),
    }
}

async fn keys_come_in_headers(store: Store) {
    let site = store.dev().await;
    let raw = async |headers: &[(&str, &str)]| {
        let mut request = site.request(reqwest::Method::POST, "/v1/tasks").header("lovage-task", "nobody");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        site.send(request.body("x")).await
    };
    let first = raw(&[("lovage-unique-key", "k"), ("lovage-unique-scope", "ttl"), ("lovage-unique-ttl", "1h")]).await;
    let refused = raw(&[("lovage-unique-key", "k"), ("lovage-unique-on-conflict", "reject")]).await;
    assert_eq!((first.status, refused.status, &refused.json["existing_id"]), (202, 409, &json!(first.id())));
    let debounced =
        raw(&[("lovage-debounce-key", "k"), ("lovage-debounce-wait", "1h"), ("lovage-debounce-max-wait", "2h")]).await;
    assert_eq!(debounced.json["state"], "scheduled");
    for (headers, pointer) in [
        (&[("lovage-unique-scope", "active")][..], "/unique/key"),
        (&[("lovage-unique-key", "k"), ("lovage-unique-scope", "ever")], "/unique/scope"),
        (&[("lovage-debounce-key", "k")], "/debounce/wait"),
        (&[("lovage-unique-colour", "red")], "/lovage-unique-colour"),
    ] {
        let refused = raw(headers).await;
        assert_eq!((refused.status, refused.pointers()), (422, vec![pointer]));
    }
}

async fn keys_and_idempotency(store: Store) {
    let site = store.dev().await;
    site.worker.on("work", Reply::status(204));
    let keyed = async |path: &str, key: &str, body: &Value| {
        site.send(site.request(reqwest::Method::POST, path).header("idempotency-key", key).json(body)).await
    };
    let signature = unique("work", "k", &json!({}));
    let first = keyed("/v1/tasks", "one", &signature).await;
    // Another request, answered with the task that has the key, is answered so for good.
    let shared = keyed("/v1/tasks", "two", &with(signature.clone(), &json!({"args": [2]}))).await;
    assert_eq!((first.status, shared.status, shared.id()), (202, 200, first.id()));
    let batch = json!([signature, unique("work", "other", &json!({})), {"task": "work"}]);
    let first_batch = keyed("/v1/tasks:batch", "batch", &batch).await;
    let atomic = json!([{"task": "work"}, with(signature.clone(), &json!({"args": [3]})), {"task": "work", "args": [3]}]);
    let first_atomic = keyed("/v1/tasks:batch?atomic=true", "atomic", &atomic).await;
    assert_eq!((first_batch.status, first_atomic.status), (200, 200), "{} {}", first_batch.json, first_atomic.json);
    assert_eq!((&first_batch.ids()[0], &first_atomic.ids()[1]), (&first.id(), &first.id()));
    site.serves(&["work"]).await;
    for id in first_batch.ids().into_iter().chain(first_atomic.ids()) {
        site.wait_final(&id).await;
    }
    for (key, body) in [("one", signature.clone()), ("two", with(signature.clone(), &json!({"args": [2]})))] {
        let again = keyed("/v1/tasks", key, &body).await;
        assert_eq!((again.status, again.id(), again.header("idempotency-replayed")), (200, first.id(), "true"));
    }
    for (path, key, body, before) in
        [("/v1/tasks:batch", "batch", &batch, &first_batch), ("/v1/tasks:batch?atomic=true", "atomic", &atomic, &first_atomic)]
    {
        let again = keyed(path, key, body).await;
        assert_eq!((again.ids(), again.header("idempotency-replayed")), (before.ids(), "true"), "{}", again.json);
    }
    let other = keyed("/v1/tasks", "one", &with(signature, &json!({"args": [9]}))).await;
    assert_eq!((other.status, other.code()), (422, "idempotency_mismatch"));
}

async fn ids_and_keys(store: Store) {
    let site = store.dev().await;
    // Some of these ids and keys have the same home, most do not.
    for n in 0..12 {
        let id = format!("order-{n}");
        let signature = with(unique("nobody", &format!("key-{n}"), &json!({})), &json!({"id": id}));
        let first = submit(&site, &signature).await;
        assert_eq!((first.status, first.id()), (202, id.clone()));
        let again = submit(&site, &signature).await;
        assert_eq!((again.status, again.id()), (200, id.clone()));
        let other = submit(&site, &with(signature.clone(), &json!({"args": [1]}))).await;
        assert_eq!((other.status, other.code()), (409, "id_exists"));
        let shared = submit(&site, &with(signature.clone(), &json!({"id": format!("other-{n}")}))).await;
        assert_eq!((shared.status, shared.id()), (200, id.clone()));
        // What was not stored has left nothing behind.
        assert_eq!(site.get(&format!("/v1/tasks/other-{n}")).await.status, 404);
        assert_eq!(submit(&site, &json!({"task": "nobody", "id": format!("other-{n}")})).await.status, 202);
        let newer =
            with(unique("nobody", &format!("key-{n}"), &json!({"on_conflict": "replace"})), &json!({"id": format!("newer-{n}")}));
        assert_eq!(submit(&site, &newer).await.status, 202);
        assert_eq!(states(&site, &[&id, &format!("newer-{n}")]).await, ["canceled replaced", "queued"]);
        assert_eq!(submit(&site, &newer).await.status, 200);
    }
}

async fn ids_are_taken_wherever_they_live(store: Store) {
    let site = store.dev().await;
    for n in 0..12 {
        let plain = json!({"task": "nobody", "id": format!("id-{n}")});
        let keyed = with(unique("nobody", &format!("key-{n}"), &json!({})), &json!({"id": format!("id-{n}")}));
        let debounced = with(debounced("1h", &json!({})), &json!({"id": format!("id-{n}")}));
        let all = [&plain, &keyed, &debounced];
        let first = all[n % 3];
        assert_eq!(submit(&site, first).await.status, 202);
        for other in all {
            let answer = submit(&site, other).await;
            assert_eq!(answer.status, if other == first { 200 } else { 409 }, "{other} after {first}");
        }
        let batch = site.post("/v1/tasks:batch", &json!([plain, keyed])).await;
        let statuses: Vec<Value> = batch.items().iter().map(|item| item["status"].clone()).collect();
        assert_eq!(statuses, [if n % 3 == 0 { 200 } else { 409 }, if n % 3 == 1 { 200 } else { 409 }]);
        let atomic = site.post("/v1/tasks:batch?atomic=true", &json!([plain])).await;
        assert_eq!(atomic.status, if n % 3 == 0 { 200 } else { 409 }, "{}", atomic.json);
    }
    let ids: Vec<String> = site.list("/v1/tasks").await.iter().map(|task| task["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 12, "{ids:?}");
}

async fn an_id_away_from_home_is_found(store: Store) {
    let site = store.dev().await;
    site.worker.on("work", Reply::json(&json!("found")));
    site.worker.on("/told", Reply::status(204));
    for n in 0..8 {
        let id = format!("order-{n}");
        let callbacks = json!({"on_success": {"url": site.worker.url_of("/told"), "retry": quick_retry(3)}});
        let more = json!({"id": id, "args": [n], "callbacks": callbacks, "link": {"task": "linked"}, "retention": "1h"});
        let signature = with(unique("work", &format!("key-{n}"), &json!({})), &more);
        assert_eq!(submit(&site, &signature).await.status, 202);
        let path = format!("/v1/tasks/{id}");
        assert_eq!(site.get(&format!("{path}/payload")).await.json["args"], json!([n]));
        assert_eq!(site.get(&format!("{path}/result")).await.status, 202);
        if n % 2 == 0 {
            assert_eq!(site.post(&format!("{path}/cancel"), &json!({})).await.json["state"], "canceled");
        }
    }
    let wait = async |n: usize| site.get(&format!("/v1/tasks/order-{n}?wait=20s")).await;
    let (records, _) = tokio::join!(futures_util::future::join_all((0..8).map(wait)), site.serves(&["work"]));
    for (n, record) in records.iter().enumerate() {
        assert_eq!(record.json["state"], if n % 2 == 0 { "canceled" } else { "succeeded" });
        let path = format!("/v1/tasks/order-{n}");
        if n % 2 == 1 {
            assert_eq!(site.get(&format!("{path}/result")).await.json, json!("found"));
            assert_eq!(site.attempts(&format!("order-{n}")).await.len(), 1);
            // What it starts lives beside it and can be found as well.
            let root = format!("/v1/tasks?root=order-{n}");
            let members = lovage_tests::eventually("link and callback", PATIENCE, async || {
                Some(site.list(&root).await).filter(|members| members.len() >= 2)
            })
            .await;
            for member in members {
                assert_eq!(site.task(member["id"].as_str().unwrap()).await["parent"], format!("order-{n}"));
            }
        }
        assert_eq!(site.delete(&path).await.status, 204);
        assert_eq!(site.get(&path).await.status, 404);
        // The id is as good as new, at home as well.
        assert_eq!(submit(&site, &json!({"task": "nobody", "id": format!("order-{n}")})).await.status, 202);
    }
}

async fn children_have_no_keys(store: Store) {
    let site = store.dev().await;
    for (field, value) in [("unique", json!({"key": "k"})), ("debounce", json!({"key": "k", "wait": 1})), ("id", json!("mine"))] {
        let refused = submit(&site, &json!({"task": "nobody", "link": {"task": "next", field: value}})).await;
        assert_eq!((refused.status, refused.pointers()), (422, vec![&*format!("/link/{field}")]));
    }
}
