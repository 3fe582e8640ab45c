// alipay-sdk (npm), Alipay's own, in both modes. It verifies answers when told to, which it is.
'use strict';

const { peer, account, obey } = require('./dialogue.js');
const { AlipaySdk } = peer('alipay-sdk');
// Not exported: signs what a platform signs with. Its entry point's place tells where it stands.
const { signatureV3 } = require(require('node:path').join(require('node:path').dirname(peer.resolve('alipay-sdk')), 'util.js'));

const PRODUCTS = { page: 'FAST_INSTANT_TRADE_PAY', wap: 'QUICK_WAP_WAY' };

function made(about, privateKey = about.private_key) {
  const keys = about.mode !== 'certificate' ? { alipayPublicKey: about.public_key } : {
    appCertContent: about.app_certificate,
    alipayPublicCertContent: about.alipay_certificate,
    alipayRootCertContent: about.root_certificates,
  };
  return new AlipaySdk({
    appId: about.app_id, privateKey, keyType: 'PKCS8', gateway: `${about.base_url}/gateway.do`, camelcase: false, ...keys,
  });
}

async function main() {
  const about = await account();
  const sdk = made(about);
  const told = async (client, method, bizContent, more = {}) => {
    try {
      return { signed: true, ...await client.exec(method, { bizContent, ...more }, { validateSign: true }) };
    } catch (error) {
      if (error.code !== 'ERR_INVALID_ARG_TYPE') throw error; // what it throws where a signature should be
      return { signed: false, ...await client.exec(method, { bizContent, ...more }) };
    }
  };

  await obey({
    precreate: ({ biz, notify_url: notifyUrl }) => told(sdk, 'alipay.trade.precreate', biz, { notifyUrl }),
    query: ({ number, transaction }) => told(
      sdk, 'alipay.trade.query', number ? { out_trade_no: number } : { trade_no: transaction },
    ),
    close: ({ number }) => told(sdk, 'alipay.trade.close', { out_trade_no: number }),
    cancel: ({ number }) => told(sdk, 'alipay.trade.cancel', { out_trade_no: number }),
    refund: ({ biz }) => told(sdk, 'alipay.trade.refund', biz),
    query_refund: ({ number, refund_no }) => told(
      sdk, 'alipay.trade.fastpay.refund.query', { out_trade_no: number, out_request_no: refund_no },
    ),
    bill: ({ day }) => told(sdk, 'alipay.data.dataservice.bill.downloadurl.query', { bill_type: 'trade', bill_date: day }),
    page: ({ kind, biz, notify_url: notifyUrl, return_url: returnUrl }) => sdk.pageExecute(
      `alipay.trade.${kind}.pay`, 'GET', { bizContent: { product_code: PRODUCTS[kind], ...biz }, notifyUrl, returnUrl },
    ),
    form: ({ biz, notify_url: notifyUrl, return_url: returnUrl }) => sdk.pageExecute(
      'alipay.trade.page.pay', 'POST', { bizContent: { product_code: PRODUCTS.page, ...biz }, notifyUrl, returnUrl },
    ),
    app: ({ biz, notify_url: notifyUrl }) => sdk.sdkExecute(
      'alipay.trade.app.pay', { bizContent: { product_code: 'QUICK_MSECURITY_PAY', ...biz }, notifyUrl },
    ),
    read: ({ body }) => {
      const fields = Object.fromEntries(new URLSearchParams(body));
      if (!sdk.checkNotifySignV2(fields)) throw new Error('the client does not believe it');
      return fields;
    },
    notice: ({ fields, private_key: key }) => {
      const signed = Object.keys(fields).sort().map((name) => `${name}=${fields[name]}`).join('&');
      return String(new URLSearchParams({ ...fields, sign: signatureV3(signed, key), sign_type: 'RSA2' }));
    },
    with_keys: ({ private_key: privateKey, public_key: publicKey, number }) => {
      const client = made(about, privateKey || about.private_key);
      if (publicKey) client.config.alipayPublicKey = publicKey;
      return told(client, 'alipay.trade.query', { out_trade_no: number });
    },
  });
}

main();
