// Owns how swagger-ui is started: from our own document, with no validator and no other host.
'use strict';

window.ui = SwaggerUIBundle({
  url: '/openapi.json',
  dom_id: '#swagger-ui',
  layout: 'BaseLayout',
  presets: [SwaggerUIBundle.presets.apis],
  validatorUrl: null,
  // A document from an address in the query would be somebody else's page on our host.
  queryConfigEnabled: false,
  deepLinking: true,
  displayOperationId: false,
  displayRequestDuration: true,
  docExpansion: 'list',
  defaultModelsExpandDepth: 0,
  tryItOutEnabled: false,
  // A key that is typed into Authorize is gone with the page.
  persistAuthorization: false,
});
