// The page of an agent. Every figure on it comes from the operator API; what comes from
// containers and images is only ever set as text.
"use strict";

const every = 2000; // milliseconds between two looks at the containers
const samples = 150; // of a chart
const mostOutput = 200000; // characters of an output that are kept

// Not relative: the page's own address may have credentials in it, which fetch refuses.
const api = location.origin + "/api/v1";

const byId = (id) => document.getElementById(id);

// ask makes one call, and returns what is in the answer; an error has the agent's words.
async function ask(type, body) {
	const call = {type};
	if (body) call[type.toLowerCase()] = body;
	const answer = await fetch(api, {method: "POST", headers: {"Content-Type": "application/json", "Accept": "application/json"}, body: JSON.stringify(call)});
	const text = await answer.text();
	if (!answer.ok) throw new Error(text.trim());
	return text ? JSON.parse(text)[type.toLowerCase()] || {} : {};
}

// follow makes a call that is answered by records, and hands over each, until signal says
// that it is enough.
async function follow(type, body, signal, take) {
	const call = {type};
	if (body) call[type.toLowerCase()] = body;
	const answer = await fetch(api, {method: "POST", signal, headers: {"Content-Type": "application/json",
		"Accept": "application/recordio", "Message-Accept": "application/json"}, body: JSON.stringify(call)});
	if (!answer.ok) throw new Error((await answer.text()).trim());
	const reader = answer.body.getReader();
	let rest = new Uint8Array();
	for (;;) {
		const {done, value} = await reader.read();
		if (done) return;
		const all = new Uint8Array(rest.length + value.length);
		all.set(rest);
		all.set(value, rest.length);
		rest = records(all, take);
	}
}

// records hands over the whole records in some bytes, and returns what comes after them.
function records(bytes, take) {
	for (;;) {
		const newline = bytes.indexOf(10);
		if (newline < 0) return bytes;
		const end = newline + 1 + Number(new TextDecoder().decode(bytes.subarray(0, newline)));
		if (bytes.length < end) return bytes;
		take(JSON.parse(new TextDecoder().decode(bytes.subarray(newline + 1, end))));
		bytes = bytes.slice(end);
	}
}

function element(name, text, attributes) {
	const e = document.createElement(name);
	if (text !== undefined) e.textContent = text;
	for (const [key, value] of Object.entries(attributes || {})) e.setAttribute(key, value);
	return e;
}

function row(...cells) {
	const tr = element("tr");
	for (const cell of cells) {
		const td = element("td");
		if (cell instanceof Node) td.append(cell);
		else td.textContent = cell;
		tr.append(td);
	}
	return tr;
}

function bytes(n) {
	if (n === undefined) return "";
	const units = ["B", "KiB", "MiB", "GiB", "TiB"];
	let unit = 0;
	for (; n >= 1024 && unit < units.length - 1; unit++) n /= 1024;
	return (unit && n < 100 ? n.toFixed(1) : Math.round(n)) + " " + units[unit];
}

const time = (info) => info ? new Date(info.nanoseconds / 1e6).toLocaleString() : "";
const idText = (id) => (id.parent ? idText(id.parent) + "." : "") + id.value;

// What is known of containers by the texts of their ids.
const known = new Map();
let chosen = ""; // the id of the one that is shown
let stopFollowing = new AbortController();

// sample keeps what a container uses, for its charts.
function sample(c) {
	const id = idText(c.container_id);
	const before = known.get(id) || {cpu: [], memory: []};
	const now = {container: c, cpu: before.cpu, memory: before.memory};
	const use = c.resource_statistics;
	const was = before.container && before.container.resource_statistics;
	if (use) {
		const spent = (s) => (s.cpus_user_time_secs || 0) + (s.cpus_system_time_secs || 0);
		if (was && use.timestamp > was.timestamp) now.cpu.push(Math.max(0, (spent(use) - spent(was)) / (use.timestamp - was.timestamp)));
		now.memory.push(use.mem_total_bytes || use.mem_rss_bytes || 0);
		for (const list of [now.cpu, now.memory]) if (list.length > samples) list.shift();
	}
	known.set(id, now);
}

function last(list) { return list.length ? list[list.length - 1] : undefined; }

function commandOf(c) {
	if (c.command && c.command.value) return c.command.value;
	return ((c.command && c.command.arguments) || c.image_arguments || []).join(" ");
}

function stateOf(c) {
	if (c.state !== "ENDED") return element("span", c.state, {class: c.state === "RUNNING" ? "good" : "quiet"});
	const end = c.termination || {};
	const signal = end.exit_status & 127;
	const text = end.reason ? end.reason.replace("REASON_", "") : end.exit_status === undefined ? "not started" : signal ? "signal " + signal : "exit " + (end.exit_status >> 8);
	return element("span", "ENDED: " + text, {class: end.exit_status ? "bad" : "quiet"});
}

// showTree draws the table of containers anew, and leaves the focus where it is.
function showTree() {
	const focused = document.activeElement && document.activeElement.dataset.id;
	const rows = [...known.entries()].sort(([a], [b]) => a < b ? -1 : 1).map(([id, k]) => {
		const c = k.container;
		const depth = id.split(".").length - 1;
		const button = element("button", (depth ? "└ " : "") + c.container_id.value, {type: "button", "data-id": id, "aria-label": "container " + id, "aria-current": id === chosen});
		button.style.marginLeft = depth * 1.2 + "rem";
		button.addEventListener("click", () => choose(id));
		const use = c.resource_statistics || {};
		const cpu = last(k.cpu);
		return row(button, stateOf(c), element("code", commandOf(c)), c.state === "RUNNING" && cpu !== undefined ? cpu.toFixed(2) : "",
			c.resource_statistics ? bytes(last(k.memory)) : "", use.processes === undefined ? "" : use.processes);
	});
	byId("tree").replaceChildren(...rows);
	byId("no-containers").hidden = rows.length > 0;
	if (focused) {
		const again = [...byId("tree").querySelectorAll("button")].find((b) => b.dataset.id === focused);
		if (again) again.focus();
	}
}

// chart draws a line of values from nothing to their most.
function chart(svg, values, text) {
	const most = Math.max(...values, 1e-9);
	const points = values.map((v, i) => (i * 300 / (samples - 1)).toFixed(1) + "," + (58 - 56 * v / most).toFixed(1)).join(" ");
	const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
	line.setAttribute("points", points);
	svg.replaceChildren(line);
	svg.setAttribute("aria-label", text);
}

function showCharts() {
	const k = known.get(chosen);
	if (!k) return;
	const cpu = last(k.cpu), memory = last(k.memory);
	byId("cpu-now").value = cpu === undefined ? "" : cpu.toFixed(2);
	byId("memory-now").value = memory === undefined ? "" : bytes(memory);
	chart(byId("cpu-chart"), k.cpu, "CPUs used over time, at most " + Math.max(...k.cpu, 0).toFixed(2));
	chart(byId("memory-chart"), k.memory, "Memory used over time, at most " + bytes(Math.max(...k.memory, 0)));
}

// choose shows one container.
function choose(id) {
	chosen = id;
	stopFollowing.abort();
	stopFollowing = new AbortController();
	byId("detail").hidden = false;
	byId("detail-title").textContent = "Container " + id;
	byId("output").replaceChildren();
	showTree();
	showCharts();
	const c = known.get(id).container;
	showFiles(c.sandbox);
	followOutput(c.container_id, stopFollowing.signal);
	byId("detail-title").focus();
}

async function followOutput(id, signal) {
	const out = byId("output");
	const decoders = {STDOUT: new TextDecoder(), STDERR: new TextDecoder()};
	let length = 0;
	try {
		await follow("ATTACH_CONTAINER_OUTPUT", {container_id: id, from_beginning: true}, signal, (io) => {
			if (io.type !== "DATA") return;
			const raw = Uint8Array.from(atob(io.data.data), (c) => c.charCodeAt(0));
			const text = decoders[io.data.type].decode(raw, {stream: true});
			const atEnd = out.scrollTop + out.clientHeight >= out.scrollHeight - 4;
			out.append(element("span", text, {class: io.data.type.toLowerCase()}));
			for (length += text.length; length > mostOutput && out.firstChild; length -= out.firstChild.textContent.length, out.firstChild.remove());
			if (atEnd) out.scrollTop = out.scrollHeight;
		});
	} catch (e) {
		if (!signal.aborted) out.append(element("span", e.message, {class: "quiet"}));
	}
}

async function showFiles(directory) {
	byId("directory").textContent = directory;
	let infos = [];
	try {
		infos = (await ask("LIST_FILES", {path: directory})).file_infos || [];
	} catch (e) {
		byId("directory").textContent = e.message;
	}
	const rows = infos.map((info) => {
		const name = info.path.slice(info.path.lastIndexOf("/") + 1);
		const kind = info.mode >> 12;
		let entry = element("span", name + (kind === 10 ? " (link)" : ""));
		if (kind === 4) {
			entry = element("button", name + "/", {type: "button"});
			entry.addEventListener("click", () => showFiles(info.path));
		} else if (kind === 8) {
			entry = element("a", name, {href: "/files/download?path=" + encodeURIComponent(info.path), download: name});
		}
		return row(entry, kind === 8 ? bytes(info.size) : "", info.uid, time(info.mtime));
	});
	const sandbox = known.get(chosen) && known.get(chosen).container.sandbox;
	if (directory !== sandbox) {
		const up = element("button", "..", {type: "button", "aria-label": "the directory above"});
		up.addEventListener("click", () => showFiles(directory.slice(0, directory.lastIndexOf("/"))));
		rows.unshift(row(up, "", "", ""));
	}
	byId("files").replaceChildren(...rows);
}

async function lookAtContainers() {
	const found = (await ask("GET_CONTAINERS", {show_nested: true, show_standalone: true, show_ended: true})).containers || [];
	found.forEach(sample);
	const ids = new Set(found.map((c) => idText(c.container_id)));
	for (const id of known.keys()) if (!ids.has(id)) known.delete(id);
	showTree();
	showCharts();
}

async function lookAtImages() {
	const images = (await ask("GET_IMAGES")).images || [];
	byId("image-list").replaceChildren(...images.map((i) => {
		const list = element("details");
		const layers = i.layers || [];
		const shared = layers.filter((l) => l.images > 1).length;
		list.append(element("summary", layers.length + (shared ? ", " + shared + " of them shared" : "")));
		for (const l of layers) list.append(element("div", l.diff_id.slice(0, 19) + (l.images > 1 ? ": in " + l.images + " images" : ""), {class: "quiet"}));
		return row(i.reference, bytes(i.size), bytes(i.own_bytes), bytes(i.shared_bytes), list);
	}));
}

async function lookAtHost() {
	const abilities = await ask("GET_ABILITIES");
	const all = [...(abilities.backends || []), ...(abilities.isolators || [])];
	byId("ability-list").replaceChildren(...all.map((a) =>
		row(a.name, element("span", (a.works ? "yes" : "no: " + a.reason) + (a.chosen ? ", in use" : ""), {class: a.works ? "good" : "bad"}))));
	byId("version").textContent = "version " + (await ask("GET_VERSION")).version_info.version;
}

// followEvents begins again when the stream breaks, as when the agent is exchanged.
async function followEvents() {
	for (;;) {
		try {
			await follow("SUBSCRIBE_EVENTS", null, undefined, (event) => {
				if (event.type === "heartbeat") return;
				const subject = event.container_id ? idText(event.container_id) : event.image || "";
				const item = element("li", time(event.time) + "  " + event.type + "  " + subject + (event.message ? ": " + event.message : ""));
				byId("event-list").prepend(item);
				if (byId("event-list").children.length > 500) byId("event-list").lastChild.remove();
				if (event.type.startsWith("image")) lookAtImages().catch(() => {});
			});
		} catch { /* said by the look at the containers */ }
		await new Promise((resume) => setTimeout(resume, every));
	}
}

async function look() {
	try {
		await lookAtContainers();
		byId("health").textContent = "";
	} catch (e) {
		byId("health").textContent = "The agent does not answer: " + e.message;
		byId("health").className = "bad";
	}
	setTimeout(look, every);
}

look();
followEvents();
lookAtImages().catch(() => {});
lookAtHost().catch(() => {});
