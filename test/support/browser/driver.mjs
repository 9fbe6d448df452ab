// A headless Chromium for tests, driven over HTTP. Each visitor is a browser of
// his own: he shares no cookie with the others.
//
// usage: CHROMIUM=/usr/bin/chromium node driver.mjs --port-file FILE
// Runs until its standard input is closed.
//
//   POST /open   {visitor, url}                 goes there
//   POST /fill   {visitor, label, text}         fills in a field
//   POST /press  {visitor, name}                follows a link or presses a button
//   POST /catch  {visitor, name, pattern}       presses a button; the request for a URL like the pattern (with *) is
//                                               not sent. Answers {url}
//   POST /cookies {visitor}                     answers {cookies: {name: {value, httpOnly, sameSite, secure, ...}}}
//   POST /forget {visitor}                      his cookies are gone
//
// open and press answer with the page that came: {url, status, title, text, dialogs}; dialogs is how many a script of a page
// has opened so far.
import { randomInt } from 'node:crypto';
import { renameSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { chromium } from 'playwright-core';

const timeout = 30_000;
const visitors = new Map(); // name -> {context, page, dialogs}

async function newVisitor(browser) {
  const context = await browser.newContext();
  const page = await context.newPage();
  page.setDefaultTimeout(timeout);
  const visitor = { context, page, dialogs: 0 };
  page.on('dialog', (dialog) => {
    visitor.dialogs += 1;
    dialog.dismiss();
  });
  return visitor;
}

const linkOrButton = ({ page }, name) => page.getByRole('link', { name, exact: true }).or(page.getByRole('button', { name, exact: true }));

async function arrived(visitor, response) {
  const { page, dialogs } = visitor;
  return { url: page.url(), status: response?.status(), title: await page.title(), text: await page.innerText('body'), dialogs };
}

// Interception by the protocol itself: playwright's own does not see where a redirect leads to.
async function catchRequest(visitor, name, pattern) {
  const session = await visitor.context.newCDPSession(visitor.page);
  try {
    await session.send('Fetch.enable', { patterns: [{ urlPattern: pattern }] });
    const paused = new Promise((resolve, reject) => {
      session.once('Fetch.requestPaused', resolve);
      setTimeout(() => reject(new Error(`no request for ${pattern}`)), timeout).unref();
    });
    const [{ requestId, request }] = await Promise.all([paused, linkOrButton(visitor, name).click({ noWaitAfter: true })]);
    await session.send('Fetch.failRequest', { requestId, errorReason: 'Aborted' });
    return { url: request.url };
  } finally {
    await session.detach();
  }
}

const commands = {
  '/open': async (visitor, { url }) => arrived(visitor, await visitor.page.goto(url)),
  '/fill': async ({ page }, { label, text }) => {
    await page.getByLabel(label, { exact: true }).fill(text);
    return {};
  },
  '/press': async (visitor, { name }) => {
    const [response] = await Promise.all([visitor.page.waitForNavigation(), linkOrButton(visitor, name).click()]);
    return arrived(visitor, response);
  },
  '/catch': (visitor, { name, pattern }) => catchRequest(visitor, name, pattern),
  '/cookies': async ({ context }) => ({
    cookies: Object.fromEntries((await context.cookies()).map((cookie) => [cookie.name, cookie])),
  }),
  '/forget': async ({ context }) => {
    await context.clearCookies();
    return {};
  },
};

async function answer(browser, request) {
  let body = '';
  for await (const chunk of request) body += chunk;
  const { visitor: name, ...parameters } = JSON.parse(body);
  if (!visitors.has(name)) visitors.set(name, await newVisitor(browser));
  return commands[request.url](visitors.get(name), parameters);
}

// Below the ephemeral range, where no outgoing connection takes the port.
function listen(server) {
  return new Promise((resolve, reject) => {
    const attempt = () => server.listen(randomInt(20000, 32000), '127.0.0.1');
    server.on('error', (error) => (error.code === 'EADDRINUSE' ? attempt() : reject(error)));
    server.on('listening', () => resolve(server.address().port));
    attempt();
  });
}

const [flag, portFile] = process.argv.slice(2);
if (flag !== '--port-file' || !portFile) {
  console.error('usage: node driver.mjs --port-file FILE');
  process.exit(2);
}
// Only pages of the test are visited, so there is no need for the sandbox, which is not to be had everywhere.
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, chromiumSandbox: false, timeout });
const server = createServer((request, response) => {
  answer(browser, request).then(
    (value) => response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(value)),
    (error) => response.writeHead(500).end(error.message),
  );
});
const port = await listen(server);
writeFileSync(`${portFile}.new`, `${port}\n`);
renameSync(`${portFile}.new`, portFile);
process.stdin.resume().on('end', async () => {
  await browser.close();
  process.exit(0);
});
