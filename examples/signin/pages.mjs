// The pages. What is put into html`...` is escaped, unless it was made by html`...` itself.
import { createHash } from 'node:crypto';

class Html extends String {}

const escape = (value) => String(value).replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);

function html(parts, ...values) {
  return new Html(String.raw({ raw: parts }, ...values.map((value) => (value instanceof Html ? value : escape(value)))));
}

const style = 'body { font: 1.1em sans-serif; max-width: 34em; margin: 3em auto; padding: 0 1em } form { display: inline }';
const styleHash = createHash('sha256').update(style).digest('base64');

export const contentSecurityPolicy = `default-src 'none'; style-src 'sha256-${styleHash}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'`;

const page = (title, body) => String(html`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>${title}</title><style>${new Html(style)}</style>
<h1>${title}</h1>
${body}
</html>`);

const signIn = html`<p><a href="/sign-in">Sign in</a></p>`;
const button = (path, label) => html`<form method="post" action="${path}"><button>${label}</button></form>`;

export const home = () => page('Welcome', html`${signIn}<p><a href="/account">Your account</a></p>`);

export const message = (text) => page(text, signIn);

export function account(claims, { status, expires_at }) {
  const until = expires_at instanceof Date ? html` until <time>${expires_at.toISOString()}</time>` : '';
  const token = status === 'connected'
    ? html`<p id="token">There is an access token${until}, and it will be replaced in time.</p>${button('/disconnect', 'Disconnect')}`
    : html`<p id="token">There is no access token (${status ?? 'disconnected'}).</p>${signIn}`;
  return page(`Hello, ${claims.name ?? claims.sub}`, html`
<p>Your account is <code id="account">${claims.sub}</code>.</p>
${token} ${button('/sign-out', 'Sign out')} ${button('/sign-out-everywhere', 'Sign out everywhere')}`);
}
