//! The dashboard as people see it: in Chromium, on desks and phones, by day and by night, with the mouse and without.
//!
//! Pictures of what was seen are kept in `dashboard/` of the build's directory.

use std::net::SocketAddr;

use serde_json::json;

use crate::support::browser::{Browser, DESK, PHONE};
use crate::support::faults::{Hole, dig, fill};
use crate::support::made_up;
use crate::support::mesh::Mesh;
use crate::support::net::{Behind, Net};
use crate::support::node::{Home, Node};
use crate::support::pair::MEET_LIMIT;
use crate::support::process::{Place, free_port, free_tcp_port};

/// The row of a member in the table, by its name.
const ROW: &str = "window.row = name => [...document.querySelectorAll('tbody tr')] \
    .find(row => row.querySelector('.name').textContent === name)?.innerText ?? ''";

/// A node with a dashboard.
struct Shown {
    home: Home,
    mesh: SocketAddr,
    dashboard: SocketAddr,
}

impl Shown {
    fn new() -> Self {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let shown =
            Self { home: Home::here(), mesh: loopback(free_port()), dashboard: loopback(free_tcp_port()) };
        shown.home.init("here");
        shown
    }

    fn up(&self) -> Node<'_> {
        self.home.up(&["--listen", &self.mesh.to_string(), "--dashboard", &self.dashboard.to_string()])
    }

    fn url(&self) -> String {
        format!("http://{}/", self.dashboard)
    }

    /// The home of another member of the mesh.
    fn member(&self, name: &str) -> Home {
        let home = Home::here();
        home.join(&self.home.invite(&[self.mesh]), name);
        home
    }
}

fn no_complaints(browser: &mut Browser) {
    let complaints = browser.complaints();
    assert!(complaints.is_empty(), "the page or the browser complains: {complaints:#?}");
}

#[test]
fn a_change_and_a_death_are_seen_without_loading_the_page_again() {
    let shown = Shown::new();
    let here = shown.up();
    let (moves, dies) = (shown.member("moves"), shown.member("dies"));
    let listen = format!("127.0.0.1:{}", free_port());
    let first = moves.up(&["--listen", &listen]);
    let mut doomed = dies.up(&["--listen", "127.0.0.1:0"]);
    here.wait_for_direct_peers(&["moves", "dies"], MEET_LIMIT);

    let mut browser = Browser::start(&Place::Here);
    browser.open(&shown.url());
    browser.eval(ROW);
    browser.wait_for("a direct path", &format!("row('moves').includes('direct {listen}')"));
    browser.wait_for("health", "row('dies').includes('healthy')");
    assert_eq!(browser.eval("document.title"), "here · net-mesh");
    browser.screenshot("two-peers");

    // A member that leaves and comes back elsewhere.
    first.stop();
    browser.wait_for("a member that left is gone", "row('moves') === ''");
    let elsewhere = format!("127.0.0.1:{}", free_port());
    let second = moves.up(&["--listen", &elsewhere]);
    browser.wait_for("another path", &format!("row('moves').includes('direct {elsewhere}')"));

    doomed.process.signal("KILL");
    browser.wait_for("a failure", "row('dies').includes('failed')");
    browser.wait_for("the facts count it", "document.querySelector('#facts .failed dd').textContent === '1'");
    browser.screenshot("failed-peer");
    assert_eq!(browser.eval("typeof window.row"), "function", "the page was loaded again");
    no_complaints(&mut browser);

    // The node itself stops, and comes back.
    here.stop();
    browser.wait_for(
        "the page says that the node is gone",
        "document.querySelector('#live').textContent.startsWith('The node does not answer since')",
    );
    browser.screenshot("node-gone");
    let here = shown.up();
    browser.wait_for("the page is live again", "document.querySelector('#live').textContent === 'Live'");
    assert_eq!(browser.eval("typeof window.row"), "function", "the page was loaded again");
    here.stop();
    second.stop();
}

#[test]
fn a_path_that_breaks_and_heals_is_seen_on_the_page() {
    let mut net = Net::new();
    let helpers = ["fra", "lon"].map(|name| net.host(name, Behind::Nothing));
    let [left, right] = ["left", "right"].map(|name| net.host(name, Behind::PortRestricted));
    let mesh = Mesh::around(helpers.into(), vec![left.clone(), right.clone()])
        .with_options("left", &["--dashboard", "127.0.0.1:8080"]);
    let mut nodes: Vec<Node<'_>> = (0..4).map(|member| mesh.start(member)).collect();
    nodes.iter_mut().for_each(Node::wait_until_it_answers);

    let mut browser = Browser::start(&left.place());
    browser.open("http://127.0.0.1:8080/");
    browser.eval(ROW);
    browser.wait_for("direct", "/direct \\d/.test(row('right')) && row('right').includes('port-restricted')");
    browser.wait_for(
        "the rendezvous is told",
        "[...document.querySelectorAll('#attempts li')].some(item => item.innerText.startsWith('right found'))",
    );
    browser.screenshot("behind-nats");
    dig(Hole::BothWays, &left, &right);
    browser.wait_for("relayed", "/relayed via (fra|lon)/.test(row('right'))");
    browser.wait_for("why", "/suspect|failed/.test(row('right'))");
    browser.screenshot("broken-path");
    fill(&left);
    browser.wait_for("direct again", "/direct \\d/.test(row('right')) && row('right').includes('healthy')");
    no_complaints(&mut browser);
    drop(browser);
    nodes.into_iter().for_each(Node::stop);
}

/// Counts what is drawn: all calls, those that put ink on the canvas, and the pictures.
const COUNTING: &str = "
    window.drawn = { calls: 0, inked: 0, pictures: 0, ms: 0 };
    const canvas = CanvasRenderingContext2D.prototype;
    let began = 0;
    for (const name of Object.getOwnPropertyNames(canvas)) {
        const { value } = Object.getOwnPropertyDescriptor(canvas, name);
        if (typeof value !== 'function' || name === 'measureText') continue;
        canvas[name] = function (...all) {
            drawn.calls += 1;
            if (name === 'clearRect') { drawn.pictures += 1; began = performance.now(); }
            if (['fill', 'stroke', 'fillText', 'strokeText', 'fillRect', 'drawImage'].includes(name)) drawn.inked += 1;
            const result = value.apply(this, all);
            drawn.ms = performance.now() - began;
            return result;
        };
    }";

/// Opens the page on a made-up mesh.
fn open_made_up(browser: &mut Browser, url: &str, members: usize, seconds: usize) {
    browser.answer("api/snapshot", &made_up::snapshot(members, seconds));
    browser.answer("api/history", &made_up::history(seconds));
    browser.open(url);
    browser.wait_for("all rows", &format!("document.querySelectorAll('tbody tr').length === {members}"));
}

/// Waits for a picture after this moment; what it took: calls, ink, and how many pictures there were.
fn next_picture(browser: &mut Browser) -> [f64; 4] {
    browser.eval("Object.assign(drawn, { calls: 0, inked: 0, pictures: 0 })");
    browser.wait_for("another picture", "drawn.pictures > 0");
    let drawn = browser.eval("({ ...drawn })");
    ["calls", "inked", "pictures", "ms"].map(|key| drawn[key].as_f64().unwrap())
}

#[test]
fn five_hundred_members_are_drawn_with_as_much_ink_as_sixty_and_changed_in_place() {
    let shown = Shown::new();
    let node = shown.up();
    let mut browser = Browser::start(&Place::Here);
    browser.before_pages(COUNTING);
    let mut figures = Vec::new();
    for members in [60, 500] {
        open_made_up(&mut browser, &shown.url(), members, 700);
        browser.screenshot(&format!("made-up-{members}"));
        // New members slide to their places; that is over.
        browser.wait_for("calm", "new Promise(done => setTimeout(() => done(true), 600))");
        let [calls, inked, pictures, ms] = next_picture(&mut browser);
        let per_picture = [calls / pictures, inked / pictures];
        println!("{members} members: {per_picture:?} calls and inked, {ms:.1} ms");
        figures.push(per_picture);
    }
    let [[few_calls, few_ink], [many_calls, many_ink]] = figures[..] else { unreachable!() };
    assert!(many_ink <= few_ink + 4.0, "ink grows with members: {few_ink} and {many_ink}");
    assert!(many_ink <= 60.0, "{many_ink} strokes and fills a picture");
    // Members and links are 8 to 9 times as many.
    assert!(many_calls <= 12.0 * few_calls, "calls grow faster than members: {few_calls} and {many_calls}");

    // An answer like the one before changes nothing in the table, and is one picture.
    browser.eval(
        "window.changed = 0;
         new MutationObserver(all => { changed += all.length; })
            .observe(document.querySelector('tbody'), { subtree: true, childList: true, characterData: true, attributes: true });
         drawn.pictures = 0;
         const ask = window.fetch;
         window.asked = 0;
         window.fetch = (...all) => { asked += 1; return ask(...all); }",
    );
    browser.wait_for("three more answers", "asked >= 4");
    assert_eq!(browser.eval("changed"), 0, "cells were written that say the same");
    let pictures = browser.eval("drawn.pictures <= asked");
    assert_eq!(pictures, true, "more pictures than answers: {}", browser.eval("[drawn.pictures, asked]"));

    // A second later the figures of all who are reached have changed, and so have their cells: not one is added.
    let before = browser.eval("[...document.querySelectorAll('tbody tr')].map(row => row.dataset.id).join()");
    browser.eval("window.kept = document.querySelector('tbody tr:nth-child(250)')");
    browser.answer("api/snapshot", &made_up::snapshot(500, 701));
    browser.wait_for("the cells follow", "changed > 100");
    assert_eq!(browser.eval("kept.isConnected"), true);
    let after = browser.eval("[...document.querySelectorAll('tbody tr')].map(row => row.dataset.id).join()");
    assert_eq!(before, after);
    no_complaints(&mut browser);
    node.stop();
}

#[test]
fn members_keep_their_place_whatever_happens_to_their_links() {
    let shown = Shown::new();
    let node = shown.up();
    let mut browser = Browser::start(&Place::Here);
    let mut snapshot = made_up::snapshot(500, 10);
    browser.answer("api/history", &made_up::history(10));
    browser.answer("api/snapshot", &snapshot);
    // Where the dots are, as far as one can see.
    let places = "(async () => {
        const { place } = await import('./layout.js');
        const { model } = await import('./model.js');
        const mesh = model(await (await fetch('api/snapshot')).json(), null);
        return JSON.stringify([...place(mesh.self, mesh.nodes, 900, 600).places].sort());
    })()";
    browser.open(&shown.url());
    let before = browser.eval(places);
    for peer in snapshot["peers"].as_array_mut().unwrap() {
        peer["health"] = "failed".into();
        peer["nat"] = "symmetric".into();
        peer["path"] = json!({ "kind": "none", "addr": null, "via": [], "via_ids": [] });
    }
    for member in snapshot["mesh"].as_array_mut().unwrap() {
        member["links"] = json!([]);
    }
    snapshot["mesh"].as_array_mut().unwrap().reverse();
    browser.answer("api/snapshot", &snapshot);
    assert_eq!(browser.eval(places), before);
    let apart = browser.eval(&format!(
        "(async () => {{
            const all = JSON.parse(await {places}).map(([, at]) => at);
            let least = Infinity;
            for (const a of all) for (const b of all) if (a !== b) least = Math.min(least, Math.hypot(a[0] - b[0], a[1] - b[1]));
            const inside = all.every(([x, y]) => x > 0 && y > 0 && x < 900 && y < 600);
            return [inside, least];
        }})()"
    ));
    assert_eq!(apart[0], true, "a member stands outside of the picture");
    assert!(apart[1].as_f64().unwrap() > 5.0, "two members stand on each other: {apart}");
    no_complaints(&mut browser);
    node.stop();
}

/// Reaches an element with the Tab key, and fails unless it shows that it has the focus.
fn focus(browser: &mut Browser, wanted: &str) {
    for _ in 0..40 {
        if browser.eval(&format!("document.activeElement.matches({wanted:?})")) == true {
            let outline = browser.eval("getComputedStyle(document.activeElement).outlineStyle");
            assert_ne!(outline, "none", "{wanted} does not show its focus");
            return;
        }
        browser.key("Tab");
    }
    panic!("{wanted} cannot be reached with Tab");
}

#[test]
fn members_are_filtered_sorted_and_opened_with_the_keyboard_alone() {
    let shown = Shown::new();
    let node = shown.up();
    let mut browser = Browser::start(&Place::Here);
    open_made_up(&mut browser, &shown.url(), 60, 30);
    let about = browser.eval("document.querySelector('#about').textContent");
    assert!(about.as_str().unwrap().contains("port mapping proven 203.0.113.7:40001"), "{about}");
    let names = "[...document.querySelectorAll('tbody .name')].map(cell => cell.textContent)";
    // The picture: the second member in its order, and all about it.
    focus(&mut browser, "#picture");
    browser.key("ArrowRight");
    browser.key("ArrowRight");
    browser.wait_for(
        "the first neighbour is told",
        "document.querySelector('#tip').textContent.startsWith('hub-1:')",
    );
    let why = json!({ "reason": "direct, because hub-1 could be dialled", "attempts": [], "next_attempt_ms": null });
    browser.answer(&format!("api/why/{}", made_up::id(1)), &why);
    browser.key("Enter");
    browser.wait_for(
        "why",
        "document.querySelector('dialog[open] .why').textContent.includes('could be dialled')",
    );
    assert_eq!(browser.eval("document.querySelector('#detail h2').textContent"), "hub-1");
    browser.viewport_shot("detail");
    browser.key("Escape");
    browser.wait_for("the dialog is closed", "!document.querySelector('#detail').open");

    // A class: its members only.
    focus(&mut browser, "#classes li:nth-child(5) button");
    browser.key("Enter");
    browser.wait_for(
        "only symmetric ones",
        "[...document.querySelectorAll('tbody .nat')].every(cell => cell.textContent === 'symmetric')",
    );
    let some = browser.eval(&format!("{names}.length"));
    assert_eq!(browser.eval("document.querySelector('#shown').textContent"), format!("{some} of 60"));
    browser.key("Enter");
    browser.wait_for("all again", &format!("{names}.length === 60"));

    // The filter: every word must occur.
    focus(&mut browser, "#filter");
    browser.type_text("SITE-0 relayed");
    browser.wait_for(
        "the filter works",
        &format!("{names}.length > 0 && {names}.every(name => name.startsWith('site-0')) && \
            [...document.querySelectorAll('tbody .path')].every(cell => cell.textContent.startsWith('relayed'))"),
    );
    focus(&mut browser, "#all");
    browser.key("Enter");
    browser.wait_for("all again", &format!("{names}.length === 60"));
    assert_eq!(browser.eval("document.activeElement.id"), "filter");

    // Sorted by round trip, both ways; this node stays first.
    focus(&mut browser, "th:nth-child(5) button");
    let rtts = "[...document.querySelectorAll('tbody tr:not(.self) .rtt')].map(cell => parseFloat(cell.textContent)).filter(Number.isFinite)";
    browser.key("Enter");
    browser.wait_for("ascending", &format!("{rtts}.every((rtt, at, all) => at === 0 || all[at - 1] <= rtt)"));
    assert_eq!(browser.eval("document.querySelector('th:nth-child(5)').ariaSort"), "ascending");
    browser.key("Enter");
    browser
        .wait_for("descending", &format!("{rtts}.every((rtt, at, all) => at === 0 || all[at - 1] >= rtt)"));
    assert_eq!(browser.eval("document.querySelector('th:nth-child(5)').ariaSort"), "descending");
    assert_eq!(browser.eval("document.querySelector('tbody tr').className.startsWith('self')"), true);
    no_complaints(&mut browser);
    node.stop();
}

#[test]
fn whoever_is_on_a_member_stays_there_while_rows_move() {
    let shown = Shown::new();
    let node = shown.up();
    let mut browser = Browser::start(&Place::Here);
    open_made_up(&mut browser, &shown.url(), 60, 30);
    focus(&mut browser, "th:nth-child(5) button");
    browser.key("Enter");
    browser.key("Enter");
    focus(&mut browser, "tbody tr:nth-child(7) button");
    let held = browser.eval("window.held = document.activeElement; held.closest('tr').dataset.id");
    let mut snapshot = made_up::snapshot(60, 31);
    for (n, peer) in snapshot["peers"].as_array_mut().unwrap().iter_mut().enumerate() {
        let slowest = peer["node_id"] == held;
        peer["rtt_ms"] = if slowest { json!(5_000) } else { json!(n + 1) };
    }
    browser.answer("api/snapshot", &snapshot);
    browser.wait_for(
        "its row is now the second",
        "held.closest('tr') === document.querySelectorAll('tbody tr')[1]",
    );
    assert_eq!(browser.eval("document.activeElement === held"), true, "the focus was lost");
    no_complaints(&mut browser);
    node.stop();
}

/// The contrast of text with what is behind it (WCAG 2.2, 1.4.3), the least of all selectors.
const CONTRAST: &str = "(selectors => {
    const channels = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
    const light = colour => channels(colour).map(c => c / 255)
        .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
    const behind = element => {
        for (let at = element; at; at = at.parentElement) {
            const colour = getComputedStyle(at).backgroundColor;
            if (!colour.endsWith(', 0)')) return colour;
        }
        return getComputedStyle(document.documentElement).backgroundColor;
    };
    return selectors.map(selector => {
        const element = document.querySelector(selector);
        const [a, b] = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => b - a);
        return [selector, (a + 0.05) / (b + 0.05)];
    });
})";

#[test]
fn it_fits_a_phone_and_can_be_read_by_day_and_by_night() {
    let shown = Shown::new();
    let node = shown.up();
    let mut browser = Browser::start(&Place::Here);
    // Names as long as names may be, in every script, and with what would be markup elsewhere.
    let mut snapshot = made_up::snapshot(120, 300);
    let long = "m".repeat(64);
    let names = [
        &long,
        "<img src=x onerror=\"window.hurt=1\">",
        "\u{202e}gnp.elif",
        "名前が長いメンバーの名前です",
        "a b",
    ];
    for (n, name) in names.iter().enumerate() {
        snapshot["peers"][n]["name"] = (*name).into();
        snapshot["mesh"][n + 1]["name"] = (*name).into();
        snapshot["peers"][n]["path"] =
            json!({ "kind": "relayed", "addr": null, "via": [&long, &long], "via_ids": [] });
        snapshot["rendezvous"][n]["name"] = (*name).into();
    }
    snapshot["status"]["name"] = long.as_str().into();
    snapshot["status"]["reflexive"] =
        json!(["[2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:65535", "203.0.113.7:4433"]);
    snapshot["status"]["problem"] =
        "nothing has come back over UDP from anyone: a firewall drops UDP here".into();
    browser.answer("api/history", &made_up::history(300));
    browser.answer("api/snapshot", &snapshot);
    for (screen, device) in [(PHONE, "phone"), (DESK, "desk")] {
        browser.screen(screen);
        for scheme in ["light", "dark"] {
            browser.scheme(scheme);
            browser.open(&shown.url());
            browser.wait_for("all rows", "document.querySelectorAll('tbody tr').length === 120");
            let width = screen.width;
            let wide = browser.eval(&format!(
                "[document.documentElement.scrollWidth > {width}, ...[...document.querySelectorAll('body *')]
                    .filter(at => !at.closest('#table') && !at.closest('.skip') && at.getBoundingClientRect().right > {width} + 0.5)
                    .map(at => at.tagName + '#' + at.id)]"
            ));
            assert_eq!(wide, json!([false]), "wider than a {device} of {width} pixels");
            let dark = browser.eval("getComputedStyle(document.body).backgroundColor");
            assert_eq!(dark == "rgb(18, 21, 26)", scheme == "dark", "{scheme}: {dark}");
            let selectors = "['h1', '#about', '#live', '#facts dt', '#facts small', '#classes button', '.axis', '#shown', \
                'td.name button', 'td.path', 'tr.failed td.health', 'tr.suspect td.health', '.outcome.found', \
                '.outcome.timed-out', 'li small', 'footer', '#problem']";
            for pair in browser.eval(&format!("{CONTRAST}({selectors})")).as_array().unwrap() {
                assert!(pair[1].as_f64().unwrap() >= 4.5, "{scheme}: hard to read: {pair}");
            }
            browser.screenshot(&format!("{device}-{scheme}"));
        }
        // All about one member fits as well.
        browser.eval("document.querySelector('tbody tr:nth-child(3) button').click()");
        browser.wait_for("the dialog is open", "document.querySelector('#detail').open");
        let fits = format!(
            "[...document.querySelectorAll('#detail, #detail *')].every(at => at.getBoundingClientRect().right <= {})",
            screen.width
        );
        assert_eq!(browser.eval(&fits), true, "the dialog is wider than a {device}");
        browser.viewport_shot(&format!("{device}-detail"));
    }
    assert_eq!(browser.eval("window.hurt ?? 'unhurt'"), "unhurt", "a name was taken for markup");
    // The node knows none of the made-up members, and says so.
    let complaints = browser.complaints();
    let others: Vec<_> = complaints.iter().filter(|text| !text.contains("/api/why/")).collect();
    assert!(others.is_empty(), "{others:#?}");
    node.stop();
}

#[test]
fn what_is_drawn_can_be_pointed_at_and_clicked() {
    let shown = Shown::new();
    let node = shown.up();
    let mut browser = Browser::start(&Place::Here);
    open_made_up(&mut browser, &shown.url(), 60, 30);
    let why = json!({ "reason": "direct", "attempts": [], "next_attempt_ms": null });
    browser.answer(&format!("api/why/{}", made_up::id(1)), &why);
    // Members go round from the top, in the order of their names; this node is in the middle.
    let at = browser.eval(
        "(async () => {
            const { place } = await import('./layout.js');
            const { model } = await import('./model.js');
            const mesh = model(await (await fetch('api/snapshot')).json(), null);
            const box = document.querySelector('#picture').getBoundingClientRect();
            const id = mesh.nodes.find(node => node.name === 'hub-1').id;
            const [x, y] = place(mesh.self, mesh.nodes, box.width, box.height).places.get(id);
            return [box.left + x, box.top + y];
        })()",
    );
    let [x, y] = [0, 1].map(|n| at[n].as_f64().unwrap());
    browser.wait_for("calm", "new Promise(done => setTimeout(() => done(true), 600))");
    browser.click(x, y);
    browser.wait_for(
        "what was clicked is open",
        "document.querySelector('dialog[open] h2')?.textContent === 'hub-1'",
    );
    assert_eq!(browser.eval("document.querySelector('#tip').textContent.startsWith('hub-1: direct')"), true);
    no_complaints(&mut browser);
    node.stop();
}
