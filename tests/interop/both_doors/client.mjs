// An MCP client of the TypeScript SDK: does what a plan says, each way, and prints what came of it.
// Plan and ways come as JSON on stdin. A way is ["http", URL], or ["stdio", COMMAND, ARGUMENT …].
import { createHash } from "node:crypto";
import { text as all } from "node:stream/consumers";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import {
  CreateMessageRequestSchema,
  ElicitRequestSchema,
  ListRootsRequestSchema,
  LoggingMessageNotificationSchema,
  ResourceUpdatedNotificationSchema,
} from "@modelcontextprotocol/sdk/types.js";

// Long texts as digests.
const short = (value) =>
  typeof value === "string" && value.length > 1000
    ? `${value.length} ${createHash("sha256").update(value).digest("hex")}`
    : Array.isArray(value)
      ? value.map(short)
      : value && typeof value === "object"
        ? Object.fromEntries(Object.entries(value).map(([name, each]) => [name, short(each)]))
        : value;
const told = (work) => work.then(short, (error) => ({ error: String(error) }));
const sized = (given) =>
  Object.fromEntries(Object.entries(given).map(([name, each]) => [name, each.size ? "x".repeat(each.size) : each]));

async function met(plan, [kind, target, ...rest]) {
  const transport =
    kind === "http"
      ? new StreamableHTTPClientTransport(new URL(target))
      : // By default it takes 10 MiB.
        new StdioClientTransport({ command: target, args: rest, env: process.env, maxBufferSize: 1 << 26 });
  const client = new Client(
    { name: "typescript", version: "1" },
    { capabilities: { sampling: {}, elicitation: {}, roots: {} } },
  );
  const logs = [];
  const updates = [];
  let update;
  const updated = new Promise((resolve) => (update = resolve));
  client.setRequestHandler(ElicitRequestSchema, () => ({
    action: "accept",
    content: { username: "ada", email: "ada@example.com" },
  }));
  client.setRequestHandler(CreateMessageRequestSchema, ({ params }) => ({
    role: "assistant",
    model: "a-model",
    content: { type: "text", text: `42 to ${params.messages[0].content.text}` },
  }));
  client.setRequestHandler(ListRootsRequestSchema, () => ({ roots: [{ uri: "file:///work", name: "work" }] }));
  client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => logs.push([params.level, params.data]));
  client.setNotificationHandler(ResourceUpdatedNotificationSchema, ({ params }) => {
    updates.push(params.uri);
    update();
  });

  const came = {};
  await client.connect(transport);
  // As it comes: the SDK drops the progress of a call whose result came with it.
  let progress = [];
  const take = transport.onmessage;
  transport.onmessage = (message, extra) => {
    if (message.method === "notifications/progress") {
      const { progressToken, ...at } = message.params;
      progress.push(at);
    }
    take(message, extra);
  };
  came.initialize = [client.getServerVersion(), client.getServerCapabilities(), client.getInstructions() ?? null];
  came.ping = await told(client.ping());
  if (plan.level) came.level = await told(client.setLoggingLevel(plan.level));
  came.tools = await told(client.listTools());
  for (const [name, given] of plan.calls) {
    progress = [];
    const result = await told(client.callTool({ name, arguments: sized(given) }, undefined, { onprogress: () => {} }));
    came[`call ${name} ${Object.keys(came).length}`] = [result, progress];
  }
  came.resources = [await told(client.listResources()), await told(client.listResourceTemplates())];
  for (const uri of plan.read) came[`read ${uri}`] = await told(client.readResource({ uri }));
  let page = await told(client.listPrompts());
  came.prompts = [page];
  while (page.nextCursor) came.prompts.push((page = await told(client.listPrompts({ cursor: page.nextCursor }))));
  for (const [name, given] of plan.prompts)
    came[`prompt ${name}`] = await told(client.getPrompt({ name, arguments: given }));
  if (plan.complete) {
    const [name, argument] = plan.complete;
    came.complete = await told(
      client.complete({ ref: { type: "ref/prompt", name }, argument: { name: argument, value: "par" } }),
    );
  }
  if (plan.subscribe) {
    const [uri, tool] = plan.subscribe;
    const subscribed = await told(client.subscribeResource({ uri }));
    const touched = await told(client.callTool({ name: tool, arguments: { uri } }));
    await Promise.race([updated, new Promise((resolve) => setTimeout(resolve, 20_000))]);
    came.subscribe = [subscribed, touched, updates, await told(client.unsubscribeResource({ uri }))];
  }
  if (plan.cancel) {
    const [slow, count] = plan.cancel;
    const signal = AbortSignal.timeout(500);
    const cut = await told(client.callTool({ name: slow, arguments: {} }, undefined, { signal }));
    came.cancel = [cut, await told(client.callTool({ name: count, arguments: {} }))];
  }
  came.logs = logs.sort();
  await client.close();
  return came;
}

const { plan, ways } = JSON.parse(await all(process.stdin));
const everything = [];
for (const way of ways) everything.push(await met(plan, way));
console.log(JSON.stringify(everything));
process.exit(0);
