// Looks at the agent's status page as a person does: node status_page.mjs CHROMIUM URL FOLDER. Tells what it saw as JSON;
// the pictures are put into FOLDER.
import { chromium } from "playwright-core";

const [executablePath, url, folder] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const seen = { problems: [], elsewhere: [], looks: {} };
const views = {
  light: { colorScheme: "light", viewport: { width: 1100, height: 420 } },
  dark: { colorScheme: "dark", viewport: { width: 1100, height: 420 } },
  phone: { colorScheme: "light", viewport: { width: 360, height: 780 }, isMobile: true, hasTouch: true },
};
for (const [name, view] of Object.entries(views)) {
  const context = await browser.newContext(view);
  const page = await context.newPage();
  page.on("console", (said) => said.type() === "error" && seen.problems.push(said.text()));
  page.on("pageerror", (error) => seen.problems.push(String(error)));
  page.on("request", (request) => request.url().startsWith(url) || seen.elsewhere.push(request.url()));
  await page.goto(url);
  await page.locator("tbody tr").first().waitFor();
  seen.looks[name] = await page.evaluate(() => ({
    ground: getComputedStyle(document.body).backgroundColor,
    overflows: document.documentElement.scrollWidth > window.innerWidth,
    summary: document.getElementById("summary").textContent,
    rows: [...document.querySelectorAll("tbody tr")].map((row) => ({
      name: row.querySelector("th").textContent,
      state: row.querySelector(".state").textContent,
      life: row.querySelector("[role=meter]")?.getAttribute("aria-valuenow") ?? null,
      width: row.querySelector(".bar i")?.getBoundingClientRect().width ?? null,
      text: row.textContent,
      markup: row.querySelectorAll("script, img").length,
    })),
  }));
  await page.screenshot({ path: `${folder}/status-${name}.png`, fullPage: true });
  if (name === "light") {
    await page.getByLabel("Filter").fill("failing");
    seen.filtered = await page.locator("tbody th").allTextContents();
    await page.getByLabel("Filter").fill("");
    // Live: what happens next is seen without a reload. The test makes it happen once it has read this line.
    console.log("ready");
    await page.locator("tbody tr", { hasText: "crm" }).locator(".fresh").waitFor();
  }
  await context.close();
}
await browser.close();
console.log(JSON.stringify(seen));
