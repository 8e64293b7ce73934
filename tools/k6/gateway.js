// Load for a running gateway (`make run`), by k6: https://k6.io
//
//   k6 run tools/k6/gateway.js                                   smoke: a few users, every kind of request
//   k6 run -e SCENARIO=ramp -e USERS=200 tools/k6/gateway.js     users go up, stay, go down
//   k6 run -e SCENARIO=rate -e RATE=5000 tools/k6/gateway.js     open loop: requests start at a constant rate
//   k6 run -e SCENARIO=websocket -e USERS=100 tools/k6/gateway.js
//
// Environment: BASE (http://127.0.0.1:5900), SCENARIO, USERS, RATE, DURATION, TOKEN (sent as Bearer).
// Only the open loop shows what latency users see under overload: the closed ones wait with a slow server.

import http from "k6/http";
import ws from "k6/ws";
import { check } from "k6";
import { Trend } from "k6/metrics";

const BASE = __ENV.BASE || "http://127.0.0.1:5900";
const SCENARIO = __ENV.SCENARIO || "smoke";
const USERS = Number(__ENV.USERS || 50);
const RATE = Number(__ENV.RATE || 1000);
const DURATION = __ENV.DURATION || "30s";
const MESSAGES = 20;

const scenarios = {
  smoke: { executor: "per-vu-iterations", vus: 2, iterations: 3, exec: "everything" },
  ramp: {
    executor: "ramping-vus",
    exec: "user",
    stages: [
      { duration: "10s", target: USERS },
      { duration: DURATION, target: USERS },
      { duration: "10s", target: 0 },
    ],
  },
  rate: {
    executor: "constant-arrival-rate",
    exec: "user",
    rate: RATE,
    timeUnit: "1s",
    duration: DURATION,
    preAllocatedVUs: USERS,
    maxVUs: USERS * 10,
  },
  websocket: { executor: "constant-vus", vus: USERS, duration: DURATION, exec: "chat" },
};

if (!(SCENARIO in scenarios)) {
  throw new Error(`SCENARIO=${SCENARIO} is none of ${Object.keys(scenarios).join(", ")}`);
}

export const options = {
  scenarios: { [SCENARIO]: scenarios[SCENARIO] },
  thresholds: {
    checks: ["rate>0.999"],
    http_req_failed: ["rate<0.001"],
    http_req_duration: ["p(99)<250"],
  },
};

const roundTrip = new Trend("ws_round_trip", true);
const params = { headers: __ENV.TOKEN ? { Authorization: `Bearer ${__ENV.TOKEN}` } : {} };

export function user() {
  const id = 1 + Math.floor(Math.random() * 10000);
  const answer = http.get(`${BASE}/api/users/${id}`, { ...params, tags: { name: "/api/users/{id}" } });
  check(answer, { "the user asked for": (got) => got.status === 200 && got.json("id") === String(id) });
}

export function echo() {
  const body = JSON.stringify({ message: "hello", filler: "x".repeat(1024) });
  const answer = http.post(`${BASE}/all/echo`, body, params);
  check(answer, { "the body came back": (got) => got.status === 200 && got.body === body });
}

export function events() {
  const answer = http.get(`${BASE}/events?n=3&ms=10`, params);
  check(answer, { "three events": (got) => got.status === 200 && got.body.split("data:").length === 4 });
}

export function chat() {
  const url = `${BASE.replace(/^http/, "ws")}/ws/chat`;
  let received = 0;
  const answer = ws.connect(url, params, (socket) => {
    const send = () => socket.send(String(Date.now()));
    socket.on("open", send);
    socket.on("message", (text) => {
      roundTrip.add(Date.now() - Number(text));
      received += 1;
      return received < MESSAGES ? send() : socket.close();
    });
    socket.setTimeout(() => socket.close(), 10000);
  });
  check(answer, { "switched protocols": (got) => got && got.status === 101 });
  check(received, { "every message came back": (count) => count === MESSAGES });
}

export function everything() {
  user();
  echo();
  events();
  chat();
}
