// The TypeScript SDK's client, driven by JSON lines on stdin: {"tool": …, "arguments": …}; what came of it on stdout.
// argv: "http URL" or "stdio COMMAND ARGUMENT …".
import { createInterface } from "node:readline";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { CreateMessageRequestSchema, ElicitRequestSchema } from "@modelcontextprotocol/sdk/types.js";

const [kind, target, ...rest] = process.argv.slice(2);
const transport =
  kind === "http"
    ? new StreamableHTTPClientTransport(new URL(target))
    : new StdioClientTransport({ command: target, args: rest, env: process.env });
const client = new Client(
  { name: "typescript", version: "1" },
  { capabilities: { sampling: {}, elicitation: {} } },
);
client.setRequestHandler(ElicitRequestSchema, () => ({ action: "accept", content: { name: "Ada" } }));
client.setRequestHandler(CreateMessageRequestSchema, () => ({
  role: "assistant",
  model: "a-model",
  content: { type: "text", text: "42" },
}));
await client.connect(transport);
console.log(JSON.stringify({ tools: (await client.listTools()).tools.map((tool) => tool.name) }));
for await (const line of createInterface({ input: process.stdin })) {
  const { tool, arguments: given } = JSON.parse(line);
  const progress = [];
  try {
    const result = await client.callTool({ name: tool, arguments: given ?? {} }, undefined, {
      onprogress: ({ message }) => progress.push(message),
    });
    console.log(JSON.stringify({ text: result.content[0].text, progress }));
  } catch (error) {
    console.log(JSON.stringify({ error: String(error) }));
  }
}
await client.close();
process.exit(0);
