// The two pages on which a user signs in at the provider and consents, for a
// browser: GET and POST /interaction/UID. Whoever gives a name is believed.

export const isInteraction = (path) => path.startsWith('/interaction/');

export async function answerInteraction(provider, request, response) {
  const details = await provider.interactionDetails(request, response);
  if (request.method !== 'POST') {
    response.writeHead(200, { 'content-type': 'text/html; charset=utf-8' }).end(page(details));
    return;
  }
  const form = new URLSearchParams(await bodyOf(request));
  await provider.interactionFinished(request, response, await resultOf(provider, details, form));
}

async function resultOf(provider, { prompt, params, session, grantId }, form) {
  if (form.get('answer') === 'cancel') return { error: 'access_denied', error_description: 'the user does not want to' };
  if (prompt.name === 'login') return { login: { accountId: form.get('name') || 'nobody' } };
  const grant = (grantId && (await provider.Grant.find(grantId)))
    || new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  return { consent: { grantId: await grant.save() } };
}

function page({ prompt, params }) {
  const [title, fields, submit] = prompt.name === 'login'
    ? ['Provider: sign in', '<label>Name <input name="name" autofocus></label>', 'Continue']
    : ['Provider: consent', `<p>${escape(params.client_id)} asks for: ${escape(params.scope)}</p>`, 'Allow'];
  return `<!doctype html><title>${title}</title><h1>${title}</h1>
<form method="post">${fields}
<button name="answer" value="yes">${submit}</button> <button name="answer" value="cancel">Cancel</button></form>`;
}

const escape = (text) => text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);

async function bodyOf(request) {
  let body = '';
  for await (const chunk of request) {
    body += chunk;
    if (body.length > 10_000) throw new Error('the form is too long');
  }
  return body;
}
