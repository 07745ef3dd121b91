use serde_json::{Value, json};

use crate::site::Site;

#[tokio::test]
async fn a_batch_is_answered_by_an_array_of_ids_in_order() {
    let (site, _worker) = Site::with_worker().await;
    let tasks: Vec<_> = (0..20).map(|n| json!({ "name": format!("task {n}"), "priority": n })).collect();
    let (status, ids) = site.post("/api/tasks/batch", &json!(tasks)).await;
    let ids = ids.as_array().unwrap().clone();
    assert_eq!((status.as_u16(), ids.len()), (202, 20));
    for (n, id) in ids.iter().enumerate() {
        let task = site.reaches(id.as_str().unwrap(), "Completed").await;
        assert_eq!((&task["name"], &task["priority"]), (&json!(format!("task {n}")), &json!(n)));
    }
}

#[tokio::test]
async fn a_batch_with_an_invalid_item_is_refused_as_a_whole_with_the_index_of_each_error() {
    let (site, _worker) = Site::with_worker().await;
    let batch = json!([
        { "name": "good" },
        { "priority": 99 },
        { "job": "demo.work", "payload": { "act": "echo" } },
        { "nmae": "x", "delay": "soon" },
    ]);
    let (status, problem) = site.post("/api/tasks/batch", &batch).await;
    let places: Vec<_> = problem["errors"].as_array().unwrap().iter().map(|e| (&e["index"], &e["pointer"])).collect();
    let expected = [(json!(1), json!("/priority")), (json!(3), json!("/delay")), (json!(3), json!("/nmae"))];
    assert_eq!((status.as_u16(), places), (422, expected.iter().map(|(index, pointer)| (index, pointer)).collect()));

    let batch = json!([{ "job": "demo.work", "payload": { "act": "echo" } }, { "job": "demo.work" }]);
    let (status, problem) = site.post("/api/tasks/batch", &batch).await;
    assert_eq!((status.as_u16(), &problem["errors"][0]["index"]), (422, &json!(1)), "{problem}");
    assert_eq!(site.get("/api/tasks").await.1["tasks"], json!([]), "nothing of them was published");
}

#[tokio::test]
async fn a_batch_has_up_to_1000_items() {
    let (site, _worker) = Site::with_worker().await;
    let tasks = |count: usize| Value::Array(vec![json!({}); count]);
    let (status, ids) = site.post("/api/tasks/batch", &tasks(1000)).await;
    assert_eq!((status.as_u16(), ids.as_array().unwrap().len()), (202, 1000));
    let (status, problem) = site.post("/api/tasks/batch", &tasks(1001)).await;
    assert_eq!(status, 422, "{problem}");
    let (status, ids) = site.post("/api/tasks/batch", &tasks(0)).await;
    assert_eq!((status.as_u16(), ids), (202, json!([])));
    let (status, problem) = site.post("/api/tasks/batch", &json!({})).await;
    assert_eq!(status, 422, "{problem}");
}
