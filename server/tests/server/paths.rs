//! Why two nodes meet as they do, over REST.

use hyper::Method;
use meetpoint_proto::wire::{ClientMessage, ServerMessage, TicketOutcome};
use meetpoint_proto::{Filtering, Mapping, NatBehavior};
use serde_json::{Value, json};

use crate::client::{call, get};
use crate::node::{Control, Node};
use crate::running::Running;

const PATHS: &str = "/v1/clusters/default/paths";

async fn told(server: &Running, a: &str, b: &str) -> Value {
    let reply = get(&format!("{PATHS}/{a}/{b}")).viewer(server).await;
    assert_eq!(reply.status.as_u16(), 200, "{reply:?}");
    reply.json()
}

/// The server has taken note of all that was said before.
async fn settled(control: &mut Control) {
    control.send(&ClientMessage::Ping { seq: 7 }).await;
    control.until(|message| matches!(message, ServerMessage::Pong { seq: 7 }).then_some(())).await;
}

/// The list has the one path of the two.
async fn check_list(server: &Running, nodes: &[Node; 2]) {
    let paths = get(PATHS).viewer(server).await.json();
    let [path] = &paths["items"].as_array().unwrap()[..] else { panic!("{paths}") };
    let mut ids = nodes.each_ref().map(Node::id);
    ids.sort_unstable();
    let ids = ids.map(|id| id.to_string());
    assert_eq!((&path["a"], &path["b"]), (&json!(ids[0]), &json!(ids[1])));
    let said = (&path["path"], &path["rtt_ms"], &path["elapsed_ms"]);
    assert_eq!(said, (&json!("direct"), &json!(1.25), &json!(84)), "{path}");
    assert_eq!(paths["next"], Value::Null);
    let behind = get(&format!("{PATHS}?after={}-{}", ids[0], ids[1])).viewer(server).await.json();
    assert_eq!(behind["items"], json!([]));
    get(&format!("{PATHS}?after={}", ids[0])).viewer(server).await.assert_problem(400, "bad_cursor");
}

/// And the pair says how it came about.
async fn check_explanation(server: &Running, nodes: &[Node; 2]) {
    let pair = told(server, "alice", "bob").await;
    let text = pair["text"].as_str().unwrap();
    assert!(text.contains("they met directly ") && text.ends_with(" ago, after 84 ms"), "{text}");
    let introduction = &pair["introductions"][0];
    assert_eq!((&introduction["outcome"], &introduction["elapsed_ms"]), (&json!("direct"), &json!(84)));
    let [asker, target] = [0, 1].map(|at| &introduction["sides"][at]);
    assert_eq!(asker["id"], nodes[0].id().to_string());
    assert_eq!(
        (&asker["mapping"], &asker["filtering"]),
        (&json!("endpoint-independent"), &json!("address-dependent"))
    );
    assert_eq!((&asker["said"], &target["said"]), (&json!("direct"), &json!("failed")));
    assert_eq!((&asker["offered"], &target["offered"]), (&json!(["host"]), &json!(["host"])));
}

#[tokio::test]
async fn a_pair_is_explained_by_what_became_of_its_introductions() {
    let (server, _dir) = Running::fresh(&[]).await;
    let token = server.join_token();
    let nodes = [Node::new(1, "alice", &token), Node::new(2, "bob", &token)];
    let [mut alice, mut bob] =
        [nodes[0].joins(server.info.http).await, nodes[1].joins(server.info.http).await];
    let pair = told(&server, "alice", "bob").await;
    assert_eq!(pair["introductions"], json!([]));
    let text = pair["text"].as_str().unwrap();
    assert!(text.ends_with("they were not introduced lately"), "{text}");

    let mut behavior = NatBehavior::default();
    (behavior.mapping, behavior.filtering) =
        (Some(Mapping::EndpointIndependent), Some(Filtering::AddressDependent));
    alice.send(&ClientMessage::Behavior { behavior }).await;
    for (control, port) in [(&mut alice, 4001), (&mut bob, 4002)] {
        control
            .send(&ClientMessage::Candidates {
                host: vec![([127, 0, 0, 1], port).into()],
                relay: Vec::new(),
                mapped: Vec::new(),
            })
            .await;
        settled(control).await;
    }
    alice
        .send(&ClientMessage::Connect { request: 1, peer: "bob".to_owned(), wait: false, handshake: None })
        .await;
    let introduced = |message| match message {
        ServerMessage::Introduction(introduction) => Some(introduction.ticket),
        _ => None,
    };
    let ticket = alice.until(introduced).await;
    assert_eq!(bob.until(introduced).await, ticket);
    let pair = told(&server, "bob", &nodes[0].id().to_string()).await;
    assert_eq!(pair["introductions"][0]["outcome"], "pending", "{pair}");

    // The one finds no path and the other does: that is one.
    bob.send(&ClientMessage::TicketResult { ticket, outcome: TicketOutcome::Failed, rtt_us: None }).await;
    settled(&mut bob).await;
    alice
        .send(&ClientMessage::TicketResult {
            ticket,
            outcome: TicketOutcome::Direct { elapsed_ms: 84 },
            rtt_us: Some(1_250),
        })
        .await;
    settled(&mut alice).await;
    check_list(&server, &nodes).await;
    check_explanation(&server, &nodes).await;

    // Away, it is known by its id.
    drop(bob);
    let id = nodes[1].id().to_string();
    let gone = async {
        while told(&server, "alice", &id).await["nodes"][1]["present"] == true {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), gone).await.expect("it is still there");
    let pair = told(&server, "alice", &id).await;
    assert_eq!(pair["nodes"][1]["name"], "bob");
    let paths = get(PATHS).viewer(&server).await.json();
    assert_eq!(paths["items"], json!([]), "whoever is away meets nobody");
    assert_eq!(pair["introductions"].as_array().unwrap().len(), 1, "{pair}");
    for path in [format!("{PATHS}/alice/bob"), format!("{PATHS}/nobody/alice")] {
        call(Method::GET, &path).viewer(&server).await.assert_problem(404, "unknown_node");
    }
    get(&format!("{PATHS}/alice/{id}")).send(server.info.http).await.assert_problem(401, "unauthorized");
    get("/v1/clusters/other/paths/a/b").viewer(&server).await.assert_problem(404, "unknown_cluster");
    server.stop().await.unwrap();
}
