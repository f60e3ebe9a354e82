// `node client.mjs URL EXPERIMENT`: Node's own fetch.
const [url, experimentId] = process.argv.slice(2);
const root = `${url}/v1/`;
const experiment = root + experimentId;

async function ask(url, status, body) {
  const options = body && {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  };
  const answer = await fetch(url, options);
  if (answer.status !== status) throw new Error(`${answer.status} ${await answer.text()}`);
  return answer.json();
}

await ask(`${root}create`, 201, { experiment_id: experimentId, arms: ["a", "b"] });
for (let i = 0; i < 20; i++) {
  const { decision_id } = await ask(`${experiment}/draw`, 200);
  await ask(`${experiment}/update`, 200, { decision_id, reward: 1 });
}
const updates = [{ arm_id: "a", reward: 1 }, { arm_id: "b", reward: 1 }];
await ask(`${experiment}/update_batch`, 200, { updates });
