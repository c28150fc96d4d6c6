//! Queues: made by their first task, shown with what is in them.

use lovage_tests::{Reply, eventually};
use serde_json::{Value, json};

use super::site::{PATIENCE, Store, slow_retry};

on_both_stores!(
    a_queue_is_made_by_its_first_task,
    depth_counts_by_state,
    depth_follows_every_change,
    the_age_of_the_oldest_is_told,
    what_comes_and_goes_is_counted,
    queues_are_listed_by_page,
    refused_tasks_make_no_queue,
);

async fn a_queue_is_made_by_its_first_task(store: Store) {
    let site = store.dev().await;
    let unknown = site.get("/v1/queues/images").await;
    assert_eq!((unknown.status, unknown.code()), (404, "queue_unknown"));
    assert_eq!(site.get("/v1/queues/images/stats").await.code(), "queue_unknown");
    assert_eq!(site.get("/v1/queues/default").await.json["name"], "default");
    site.submit(&json!({"task": "nobody", "queue": "images"})).await;
    let queue = site.get("/v1/queues/images").await;
    assert_eq!((queue.status, &queue.json["name"]), (200, &json!("images")));
    assert!(queue.json["created_at"].is_string(), "{}", queue.json);
    let names: Vec<Value> = site.list("/v1/queues").await.iter().map(|queue| queue["name"].clone()).collect();
    assert!(names.contains(&json!("images")) && names.contains(&json!("default")), "{names:?}");
    // Names with characters that mean something in a path.
    site.submit(&json!({"task": "nobody", "queue": "a:b.c_d-e"})).await;
    assert_eq!(site.get("/v1/queues/a%3Ab.c_d-e").await.json["name"], "a:b.c_d-e");
}

async fn depth_counts_by_state(store: Store) {
    let site = store.dev().await;
    site.worker.on("good", Reply::status(204)).on("bad", Reply::status(400)).on("again", Reply::status(500));
    let gate = site.worker.hold("held", Reply::status(204));
    site.serves(&["good", "bad", "again", "held"]).await;
    let of = |task: &str| json!({"task": task, "queue": "q", "retry": slow_retry()});
    let mut tasks = vec![of("good"), of("good"), of("bad"), of("again"), of("held"), of("nobody"), of("nobody"), of("nobody")];
    tasks.push(json!({"task": "nobody", "queue": "q", "delay": "1h"}));
    tasks.push(json!({"task": "nobody", "queue": "q", "expires_in": "30ms"}));
    tasks.push(json!({"task": "nobody", "queue": "q", "id": "canceled"}));
    tasks.push(json!({"task": "nobody", "queue": "elsewhere"}));
    site.submit_batch(&tasks).await;
    site.post("/v1/tasks/canceled/cancel", &json!({})).await;
    let expected = json!({
        "blocked": 0, "scheduled": 1, "queued": 3, "running": 1, "retrying": 1,
        "succeeded": 2, "failed": 1, "canceled": 1, "expired": 1,
    });
    eventually("the expected depth", PATIENCE, async || {
        let stats = site.get("/v1/queues/q/stats").await;
        assert_eq!(stats.status, 200);
        (stats.json["depth"] == expected).then_some(())
    })
    .await;
    gate.open();
}

async fn depth_follows_every_change(store: Store) {
    let site = store.dev().await;
    site.worker.on("good", Reply::status(204));
    let ids = site.submit_batch(&vec![json!({"task": "good", "queue": "q"}); 40]).await.ids();
    let depth = async || site.get("/v1/queues/q/stats").await.json["depth"].clone();
    assert_eq!(depth().await["queued"], 40);
    site.serves(&["good"]).await;
    site.wait_all_final(&ids, PATIENCE).await;
    let done = depth().await;
    assert_eq!((&done["queued"], &done["running"], &done["succeeded"]), (&json!(0), &json!(0), &json!(40)));
    for id in &ids[..10] {
        assert_eq!(site.delete(&format!("/v1/tasks/{id}")).await.status, 204);
    }
    assert_eq!(depth().await["succeeded"], 30);
}

async fn the_age_of_the_oldest_is_told(store: Store) {
    let site = store.dev().await;
    assert_eq!(site.get("/v1/queues/default/stats").await.json["oldest_age"], json!(null));
    site.submit_plain("nobody").await;
    let age = eventually("an age", PATIENCE, async || {
        let stats = site.get("/v1/queues/default/stats").await;
        stats.json["oldest_age"].as_str().filter(|age| *age != "0s").map(str::to_owned)
    });
    let age = age.await;
    assert!(age.ends_with('s'), "{age}");
}

async fn what_comes_and_goes_is_counted(store: Store) {
    let site = store.dev().await;
    site.worker.on("good", Reply::status(204));
    site.serves(&["good"]).await;
    let rates = async |queue: &str| {
        let stats = site.get(&format!("/v1/queues/{queue}/stats")).await.json;
        (stats["in_rate"].clone(), stats["out_rate"].clone())
    };
    let of = |task: &str| json!({"task": task, "queue": "q"});
    site.submit_batch(&[vec![of("good"); 60], vec![of("nobody"); 60]].concat()).await;
    eventually("what came and was done", PATIENCE, async || (rates("q").await == (json!(2.0), json!(1.0))).then_some(())).await;
    assert_eq!(rates("default").await, (json!(0.0), json!(0.0)));
    // What is canceled leaves, and what a task starts comes in.
    site.post("/v1/queues/q/purge", &json!({})).await;
    site.put("/v1/queues/next", &json!({})).await;
    let link = json!({"task": "nobody", "queue": "next"});
    site.submit(&json!({"task": "good", "queue": "default", "link": vec![link; 3]})).await;
    eventually("all that left", PATIENCE, async || (rates("q").await == (json!(2.0), json!(2.0))).then_some(())).await;
    eventually("what was started", PATIENCE, async || (rates("next").await == (json!(0.05), json!(0.0))).then_some(())).await;
}

async fn queues_are_listed_by_page(store: Store) {
    let site = store.dev().await;
    let tasks: Vec<Value> = (0..25).map(|n| json!({"task": "nobody", "queue": format!("q-{n:02}")})).collect();
    site.submit_batch(&tasks).await;
    for limit in [1, 10, 100] {
        let queues = site.list(&format!("/v1/queues?limit={limit}")).await;
        let names: Vec<&str> = queues.iter().filter_map(|queue| queue["name"].as_str()).collect();
        assert!(names.is_sorted() && names.iter().filter(|name| name.starts_with("q-")).count() == 25, "{names:?}");
    }
}

async fn refused_tasks_make_no_queue(store: Store) {
    let site = store.dev().await;
    site.post_task(&json!({"task": "nobody", "queue": "ghost", "priority": 10})).await;
    site.post_task(&json!({"task": "nobody", "queue": "no good"})).await;
    assert_eq!(site.get("/v1/queues/ghost").await.status, 404);
    assert_eq!(site.get("/v1/queues/no%20good").await.status, 404);
}
